"""Convolutions in bfloat16 for training: who casts what, and the one-dimensional convolution of either type."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

Precision = Literal["float32", "bfloat16"]
_LAYOUT = ("NWC", "WIO", "NWC")
_LAYOUT_2D = ("NHWC", "HWIO", "NHWC")


def in_precision(params: Any, precision: Precision) -> Any:
    """Parameters with which convolutions compute in `precision`: their kernels cast, all else as it is.

    Gradients with respect to `params` are float32 again. For training only: codes from bfloat16 are other codes.
    """
    if precision == "float32":
        return params

    def cast_kernel(path: Any, leaf: Array) -> Array:
        return leaf.astype(precision) if path[-1].key in ("kernel", "v") else leaf

    return jax.tree_util.tree_map_with_path(cast_kernel, params)


def convolve_time(
    x: Array, kernel: Array, stride: int = 1, padding: tuple[int, int] = (0, 0), dilation: int = 1, groups: int = 1
) -> Array:
    """Convolution of x[batch, time, in] with kernel[taps, in / groups, out] of one type, which the result has too.

    bfloat16 goes through a second axis of length 1: one-dimensional bfloat16 convolutions are reported to fail on CUDA
    (jax issue 37922). Sums are the hardware's, float32 on GPUs and TPUs. Asked for float32 results, JAX would compute
    both gradients in float32, which is most of the work.
    """
    if x.dtype != jnp.bfloat16:
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride,),
            [padding],
            rhs_dilation=(dilation,),
            dimension_numbers=_LAYOUT,
            feature_group_count=groups,
        )
    y = lax.conv_general_dilated(
        x[:, :, None],
        kernel[:, None],
        (stride, 1),
        [padding, (0, 0)],
        rhs_dilation=(dilation, 1),
        dimension_numbers=_LAYOUT_2D,
        feature_group_count=groups,
    )
    return y[:, :, 0]
