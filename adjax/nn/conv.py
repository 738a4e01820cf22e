"""Causal convolutions: the only layers that know what came before, whether training, offline or streaming.

Every layer here prepends its left context to the input and then runs one VALID convolution. Offline the context is
fresh (zeros, or the repeated first frame of a transposed convolution). Where the collection `stream` is mutable, the
context is what the previous call left there, so any chunking computes what the whole signal does. Laws:

1. a fresh stream state is all zeros; 2. every leaf of it leads with the batch axis; 3. streaming from fresh equals
offline for every chunking; 4. state shapes do not depend on the chunk; 5. nothing outside this module reads it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

STREAM = "stream"
_LAYOUT = ("NWC", "WIO", "NWC")


@jax.custom_vjp
def elu(x: Array) -> Array:
    """ELU with alpha 1; its gradient needs the output only."""
    return jnp.where(x > 0, x, jnp.exp(jnp.minimum(x, 0)) - 1)


def _elu_forward(x: Array) -> tuple[Array, Array]:
    y = elu(x)
    return y, y


def _elu_backward(y: Array, gradient: Array) -> tuple[Array]:
    return (jnp.where(y > 0, gradient, gradient * (y + 1)),)


elu.defvjp(_elu_forward, _elu_backward)


def fan_in_uniform(fan_in: int) -> Callable[..., Array]:
    """Uniform within 1/sqrt(fan_in), the published initial weights."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def normalize(v: Array, g: Array) -> Array:
    """Weight norm g * v / ||v||; the norm runs over the axes along which g has length 1."""
    axes = tuple(i for i, n in enumerate(g.shape) if n == 1)
    return v * (g / jnp.sqrt(jnp.sum(v * v, axis=axes, keepdims=True)))


def fold_weight_norm(params: Mapping[str, Any]) -> dict[str, Any]:
    """The same parameters with every weight-normed pair (v, g) folded into one kernel."""
    if "v" in params and "g" in params:
        rest = {k: x for k, x in params.items() if k not in ("v", "g")}
        return {"kernel": normalize(params["v"], params["g"]), **rest}
    return {k: fold_weight_norm(x) if isinstance(x, Mapping) else x for k, x in params.items()}


def zero_buffers(state: Mapping[str, Any]) -> dict[str, Any]:
    """A fresh stream state in which transposed convolutions start from a zero frame, as the published streamer does."""
    return {
        k: zero_buffers(x) if isinstance(x, Mapping) else (jnp.ones_like(x) if k == "seen" else x)
        for k, x in state.items()
    }


class _Layer(nn.Module):
    """Shared by the layers below: left context, weights with or without weight norm."""

    def _is_streaming(self) -> bool:
        return self.is_mutable_collection(STREAM)

    def _with_context(self, x: Array, length: int, repeat_first: bool = False) -> Array:
        """x[batch, time, channels] with `length` earlier frames before it."""
        batch, _, channels = x.shape
        if length == 0:
            return x
        fresh = jnp.repeat(x[:, :1], length, axis=1) if repeat_first else jnp.zeros((batch, length, channels), x.dtype)
        if not self._is_streaming():
            return jnp.concatenate([fresh, x], axis=1)
        stored = self.variable(STREAM, "context", jnp.zeros, (batch, length, channels), x.dtype)
        context = stored.value
        if repeat_first:
            seen = self.variable(STREAM, "seen", jnp.zeros, (batch,), jnp.bool_)
            context = jnp.where(seen.value[:, None, None], context, fresh)
            seen.value = jnp.ones((batch,), jnp.bool_)
        padded = jnp.concatenate([context, x], axis=1)
        stored.value = padded[:, padded.shape[1] - length :]
        return padded

    def _kernel(self, shape: tuple[int, ...], init: Callable[..., Array], normed_axis: int | None) -> Array:
        if normed_axis is None:
            return self.param("kernel", init, shape)
        v = self.param("v", init, shape)
        others = tuple(i for i in range(len(shape)) if i != normed_axis)
        g = self.param("g", lambda _: jnp.sqrt(jnp.sum(v * v, axis=others, keepdims=True)))
        return normalize(v, g)


class Conv(_Layer):
    """1-D convolution, causal (left context only) or with symmetric zero padding.

    A causal layer's left context is (kernel_size - 1) * dilation samples: with stride s and kernel 2s, frame i then
    sees the input up to sample i*s, the first of its hop. `aligned` takes kernel_size - stride samples instead: frame i
    sees its whole hop, at the same streaming latency.

    Input [batch, time, in]; output [batch, ceil(time / stride), features] if causal (time / stride whole if aligned).
    """

    features: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1
    bias: bool = True
    causal: bool = True
    aligned: bool = False
    weight_norm: bool = False
    kernel_init: Callable[..., Array] | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        init = self.kernel_init or fan_in_uniform(channels * self.kernel_size)
        kernel = self._kernel((self.kernel_size, channels, self.features), init, 2 if self.weight_norm else None)
        padding = (0, 0)
        if not self.causal:
            side = (self.kernel_size - 1) // 2 * self.dilation
            padding = (side, side)
        else:
            length = self.kernel_size - self.stride if self.aligned else (self.kernel_size - 1) * self.dilation
            if self._is_streaming():
                x = self._with_context(x, length)
            else:  # the convolution pads: a training step need not copy x
                padding = (length, 0)
        y = lax.conv_general_dilated(
            x, kernel, (self.stride,), [padding], rhs_dilation=(self.dilation,), dimension_numbers=_LAYOUT
        )
        if self.bias:
            y += self.param("bias", fan_in_uniform(channels * self.kernel_size), (self.features,))
        return y


class TransposedConv(_Layer):
    """Transposed 1-D convolution with kernel 2 * stride, computed as a two-tap convolution over frames.

    Samples i*stride .. (i+1)*stride come from frames i-1 (tap 0) and i (tap 1); before the first frame stands that
    frame itself. Not causal: symmetric cropping instead. The kernel is [2, in, stride * features], sample major.

    Input [batch, time, in]; output [batch, time * stride, features].
    """

    features: int
    stride: int
    bias: bool = True
    causal: bool = True
    weight_norm: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, time, channels = x.shape
        init = fan_in_uniform(self.features * 2 * self.stride)
        shape = (2, channels, self.stride * self.features)
        kernel = self._kernel(shape, init, 1 if self.weight_norm else None)
        padding = (0, 0) if self.causal else (1, 1)
        if self.causal:
            x = self._with_context(x, 1, repeat_first=True)
        y = lax.conv_general_dilated(x, kernel, (1,), [padding], dimension_numbers=_LAYOUT)
        y = y.reshape(batch, -1, self.features)
        if not self.causal:
            start = (self.stride + 1) // 2
            y = y[:, start : start + time * self.stride]
        if self.bias:
            y += self.param("bias", init, (self.features,))
        return y


class FixedConv(_Layer):
    """Causal convolution over frames with a given kernel [taps, in, out], such as a lapped transform."""

    @nn.compact
    def __call__(self, x: Array, kernel: np.ndarray) -> Array:
        x = self._with_context(x, kernel.shape[0] - 1)
        return lax.conv_general_dilated(x, jnp.asarray(kernel, x.dtype), (1,), [(0, 0)], dimension_numbers=_LAYOUT)


class FrameCounter(_Layer):
    """Numbers of the frames of a chunk, int32[batch, time], counted from the start of the stream."""

    @nn.compact
    def __call__(self, batch: int, time: int) -> Array:
        start = jnp.zeros((batch,), jnp.int32)
        if self._is_streaming():
            count = self.variable(STREAM, "count", jnp.zeros, (batch,), jnp.int32)
            start = count.value
            count.value = start + time
        return start[:, None] + jnp.arange(time, dtype=jnp.int32)
