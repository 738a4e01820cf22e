"""The least time that arithmetic takes on this machine: operations of a program over the rate of matrix products."""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adjax.benchmark.clock import times

MATRIX = 768  # rows and columns of the products that measure the machine's rate


def facts() -> dict[str, Any]:
    """The machine and the settings that a figure depends on."""
    try:
        threads = len(os.sched_getaffinity(0))
    except AttributeError:
        threads = os.cpu_count() or 1
    device = jax.devices()[0]
    return {"device": device.device_kind, "platform": device.platform, "threads": threads, "jax": jax.__version__}


def matrix_rate(repeats: int = 20) -> float:
    """Floating-point operations per second of float32 matrix products, the best of some: what a layer can reach."""
    product = jax.jit(lambda a, b: jnp.dot(a, b, precision=jax.lax.Precision.HIGHEST))
    a = jnp.ones((MATRIX, MATRIX))
    return 2 * MATRIX**3 / times(lambda: product(a, a).block_until_ready(), repeats).min()


def count_operations(jaxpr: Any) -> float:
    """2 for each product of the convolutions and matrix products of a program, loops counted.

    Products with the zeros that the gradient of a strided convolution puts between samples are left out.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        out = equation.outvars[0].aval
        if equation.primitive.name == "conv_general_dilated":
            kernel, spec = equation.invars[1].aval.shape, equation.params["dimension_numbers"].rhs_spec
            products = float(np.prod(out.shape)) * float(np.prod(kernel)) / kernel[spec[0]]
            total += 2.0 * products / float(np.prod(equation.params["lhs_dilation"]))
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2.0 * float(np.prod(out.shape)) * float(np.prod([shape[i] for i in contracted]))
        repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")
        ):
            if hasattr(inner, "jaxpr"):
                total += repeats * count_operations(inner.jaxpr)
            elif hasattr(inner, "eqns"):
                total += repeats * count_operations(inner)
    return total
