"""Convolutions of discriminators: strided, grouped, in one or two dimensions, with weight or spectral norm.

Channels are last, and nothing here streams. A layer convolves in the type of its kernel and gives float32. XLA's
gradients of grouped and of strided convolutions are several times slower on a CPU than their FLOPs
(scripts/time_discriminators.py measures that), hence formulations of one result:

* grouped: the backward pass folds the stride into the channels; the kernel's gradient is a convolution a group;
* one-dimensional and wide: the windows are laid side by side and multiplied with the kernel as a matrix;
* two-dimensional: the strides are folded into the channels, which leaves a plain convolution;
* one-dimensional and narrow: XLA's own.
"""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from adjax.config.discriminators import Norm
from adjax.nn.conv import fan_in_uniform, normalize
from adjax.nn.precision import convolve_time

SPECTRAL = "spectral"  # for each kernel under spectral norm, its first singular vector over the outputs
_WIDE = 512  # input channels from which a matrix product is faster; below, windows cost as much as they save
_LAYOUT = ("NHWC", "HWIO", "NHWC")


class NormedConv(nn.Module):
    """Convolution over one or two axes with symmetric zero padding, its kernel normalised or not.

    Under spectral norm the kernel is divided by its largest singular value as a matrix [window and input, output],
    which one step of the power method tracks in each call that may write the collection `spectral` (Miyato et al.,
    2018, algorithm 1). Where that collection is not mutable, its vector is used as it is.

    Input [batch, *axes, in]; output [batch, *((n + 2 * padding - kernel_size) // strides + 1), features].
    """

    features: int
    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int = 1
    norm: Norm = "none"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (*self.kernel_size, x.shape[-1] // self.groups, self.features)
        init = fan_in_uniform(math.prod(shape[:-1]))
        if self.norm == "weight":
            v = self.param("v", init, shape)
            others = tuple(range(v.ndim - 1))
            g = self.param("g", lambda _: jnp.sqrt(jnp.sum(v * v, axis=others, keepdims=True)))
            kernel = normalize(v, g)
        else:
            kernel = self.param("kernel", init, shape)
            if self.norm == "spectral":
                wide = kernel.astype(jnp.float32)
                kernel = (wide / self._largest_singular_value(wide.reshape(-1, self.features))).astype(kernel.dtype)
        y = convolve(x.astype(kernel.dtype), kernel, self.strides, self.padding, self.groups).astype(jnp.float32)
        return y + self.param("bias", init, (self.features,))

    def _largest_singular_value(self, matrix: Array) -> Array:
        """Estimate for matrix[inputs, outputs]; its gradient takes the singular vectors as constants."""
        stored = self.variable(
            SPECTRAL, "u", lambda: _unit(jax.random.normal(self.make_rng("params"), matrix.shape[1:]))
        )
        fixed, u = lax.stop_gradient((matrix, stored.value))
        v = _unit(fixed @ u)
        if self.is_mutable_collection(SPECTRAL) and not self.is_initializing():
            u = stored.value = _unit(v @ fixed)
        return v @ matrix @ u


def convolve(x: Array, kernel: Array, strides: tuple[int, ...], padding: tuple[int, ...], groups: int = 1) -> Array:
    """Convolution of x[batch, *axes, in] with kernel[*window, in / groups, out], zero-padded by `padding` at both ends.

    One or two axes; groups only with one. Raises ValueError where the padded input is shorter than the kernel.
    """
    for n, size, side in zip(x.shape[1:-1], kernel.shape, padding, strict=False):
        if n + 2 * side < size:
            raise ValueError(
                f"a convolution with kernel {size} and padding {side} got only {n} samples, frames or bins"
            )
    if groups > 1:
        return _grouped(x, kernel, strides[0], padding[0], groups)
    if kernel.ndim == 3:
        f = _as_matrix if x.shape[-1] >= _WIDE else _plain
        return f(x, kernel, strides[0], padding)
    left = tuple(0 if stride > 1 else side for stride, side in zip(strides, padding, strict=True))
    return _plain(*_fold_strides(x, kernel, strides, padding), padding=left)


def _plain(x: Array, kernel: Array, stride: int = 1, padding: tuple[int, ...] = (0,), groups: int = 1) -> Array:
    if kernel.ndim == 3:
        return convolve_time(x, kernel, stride, (padding[0], padding[0]), groups=groups)
    sides = [(side, side) for side in padding]
    return lax.conv_general_dilated(x, kernel, (stride, stride), sides, dimension_numbers=_LAYOUT)


def _as_matrix(x: Array, kernel: Array, stride: int, padding: tuple[int, ...]) -> Array:
    size = kernel.shape[0]
    x = jnp.pad(x, ((0, 0), (padding[0], padding[0]), (0, 0)))
    end = (x.shape[1] - size) // stride * stride + 1
    windows = jnp.concatenate([x[:, i : i + end : stride] for i in range(size)], axis=-1)
    return windows @ kernel.reshape(-1, kernel.shape[-1])


def _fold_strides(
    x: Array, kernel: Array, strides: tuple[int, ...], padding: tuple[int, ...], groups: int = 1
) -> tuple[Array, Array]:
    """Input and kernel whose convolution with stride 1 is that of x and kernel with strides.

    Each stride's samples become channels: [batch, n, in] to [batch, n / stride, stride * in], within each group. The
    padding of such an axis is in the folded input; that of an axis of stride 1 is left to the convolution, which pads
    faster.
    """
    for axis, (stride, side) in enumerate(zip(strides, padding, strict=True), start=1):
        if stride == 1:
            continue
        size = kernel.shape[axis - 1]
        count = (x.shape[axis] + 2 * side - size) // stride + 1
        taps = -(-size // stride)
        length = (count + taps - 1) * stride
        x = _pad(x, axis, side, max(0, length - side - x.shape[axis]))
        x = lax.slice_in_dim(x, 0, length, axis=axis)
        kernel = _pad(kernel, axis - 1, 0, taps * stride - size)
        # [.., frame, stride, .., group, channel] to [.., frame, .., group, stride, channel]
        x = x.reshape(*x.shape[:axis], -1, stride, *x.shape[axis + 1 : -1], groups, x.shape[-1] // groups)
        x = jnp.moveaxis(x, axis + 1, -2)
        x = x.reshape(*x.shape[:-3], -1)
        kernel = kernel.reshape(*kernel.shape[: axis - 1], taps, stride, *kernel.shape[axis:])
        kernel = jnp.moveaxis(kernel, axis, -3)
        kernel = kernel.reshape(*kernel.shape[:-3], -1, kernel.shape[-1])
    return x, kernel


def _pad(x: Array, axis: int, left: int, right: int) -> Array:
    return jnp.pad(x, [(left, right) if i == axis else (0, 0) for i in range(x.ndim)])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _grouped(x: Array, kernel: Array, stride: int, padding: int, groups: int) -> Array:
    return _plain(x, kernel, stride, (padding,), groups)


def _grouped_forward(x: Array, kernel: Array, stride: int, padding: int, groups: int):
    return _grouped(x, kernel, stride, padding, groups), (x, kernel)


def _grouped_backward(stride: int, padding: int, groups: int, saved: tuple[Array, Array], dy: Array):
    def fold(x: Array, kernel: Array) -> tuple[Array, Array]:
        return _fold_strides(x, kernel, (stride,), (padding,), groups)

    (x, kernel), unfold = jax.vjp(fold, *saved)
    size, inputs, features = kernel.shape
    turned = kernel[::-1].reshape(size, inputs, groups, -1).transpose(0, 3, 2, 1).reshape(size, -1, groups * inputs)
    left = padding if stride == 1 else 0
    dx = _plain(dy, turned, padding=(size - 1 - left,), groups=groups)
    xs, dys = jnp.split(x, groups, axis=-1), jnp.split(dy, groups, axis=-1)
    some = kernel[..., : features // groups]  # linear: any will do, but it must vary over devices as the kernel does
    group = [functools.partial(_plain, x, padding=(left,)) for x in xs]
    dkernel = [jax.vjp(f, some)[1](dy)[0] for f, dy in zip(group, dys, strict=True)]
    return unfold((dx, jnp.concatenate(dkernel, axis=-1)))


_grouped.defvjp(_grouped_forward, _grouped_backward)


def _unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.sqrt(jnp.sum(x * x)), 1e-12)
