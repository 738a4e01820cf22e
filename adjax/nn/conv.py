"""Causal convolutions: the only layers that know what came before, whether training, offline or streaming.

Every layer here prepends its left context to the input and then runs one VALID convolution. Offline the context is
fresh (zeros, or the repeated first frame of a transposed convolution). Where the collection `stream` is mutable, the
context is what the previous call left there, so any chunking computes what the whole signal does. Laws:

1. a fresh stream state is all zeros; 2. every leaf of it leads with the batch axis; 3. streaming from fresh equals
offline for every chunking; 4. state shapes do not depend on the chunk; 5. nothing outside this module reads it.

A layer convolves in the type of its kernel and gives float32: training may cast kernels (adjax.nn.precision).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from adjax import kernels
from adjax.kernels import PACKED
from adjax.nn.precision import convolve_time
from adjax.packed import Part

STREAM = "stream"
STATS = "stats"  # constants of a model that come from its training set


@jax.custom_vjp
def elu(x: Array) -> Array:
    """ELU with alpha 1; its gradient needs the output only. Computed in float32: bfloat16 has no exp(x) - 1 near 0."""
    y = x.astype(jnp.float32)
    return jnp.where(y > 0, y, jnp.exp(jnp.minimum(y, 0)) - 1).astype(x.dtype)


def _elu_forward(x: Array) -> tuple[Array, Array]:
    y = elu(x)
    return y, y


def _elu_backward(y: Array, gradient: Array) -> tuple[Array]:
    return (jnp.where(y > 0, gradient, gradient * (y + 1)),)


elu.defvjp(_elu_forward, _elu_backward)


@dataclass(frozen=True)
class Activation:
    """A pointwise function that a layer applies to its input: none, ELU, or a leaky ReLU with `slope`."""

    kind: Literal["none", "elu", "leaky"] = "none"
    slope: float = 0.0

    def __call__(self, x: Array) -> Array:
        if self.kind == "elu":
            return elu(x)
        return x if self.kind == "none" else nn.leaky_relu(x, self.slope)


NONE, ELU = Activation(), Activation("elu")


def leaky(slope: float) -> Activation:
    """Leaky ReLU."""
    return Activation("leaky", slope)


def rms_norm(x: Array, scale: Array) -> Array:
    """x / rms(x) over channels, times scale[channels]."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * scale


def fan_in_uniform(fan_in: int) -> Callable[..., Array]:
    """Uniform within 1/sqrt(fan_in), the published initial weights."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def normalize(v: Array, g: Array) -> Array:
    """Weight norm g * v / ||v||, in the type of v; the norm runs over the axes along which g has length 1."""
    axes, wide = tuple(i for i, n in enumerate(g.shape) if n == 1), v.astype(g.dtype)
    return (wide * (g / jnp.sqrt(jnp.sum(wide * wide, axis=axes, keepdims=True)))).astype(v.dtype)


def fold_weight_norm(params: Mapping[str, Any]) -> dict[str, Any]:
    """The same parameters with every weight-normed pair (v, g) folded into one kernel."""
    if "v" in params and "g" in params:
        rest = {k: x for k, x in params.items() if k not in ("v", "g")}
        return {"kernel": normalize(params["v"], params["g"]), **rest}
    return {k: fold_weight_norm(x) if isinstance(x, Mapping) else x for k, x in params.items()}


def pack_kernels(params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(parameters without the kernels of convolutions, those kernels packed): two collections of an inference model.

    Biases and the scales of norms stand in both: not every layer leaves them to the kernel.
    """
    rest: dict[str, Any] = {}
    packed: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            rest[name], inner = pack_kernels(value)
            packed |= {name: inner} if inner else {}
        elif name == "kernel":
            packed[name] = kernels.pack(np.asarray(value).reshape(-1, *np.shape(value)[-2:]))
        else:
            rest[name] = value
            packed |= {name: value} if name in ("bias", "scale") else {}
    return rest, packed


def zero_buffers(state: Mapping[str, Any]) -> dict[str, Any]:
    """A fresh stream state in which transposed convolutions start from a zero frame, as the published streamer does."""
    return {
        k: zero_buffers(x) if isinstance(x, Mapping) else (jnp.ones_like(x) if k == "seen" else x)
        for k, x in state.items()
    }


class _Layer(nn.Module):
    """Shared by the layers below: left context, weights with or without weight norm, and the convolution itself."""

    def packed_kernel(self) -> Part | None:
        """The kernel for adjax.kernels, if that is what computes this layer."""
        return cast(Part, self.get_variable(PACKED, "kernel")) if self.has_variable(PACKED, "kernel") else None

    def _is_streaming(self) -> bool:
        return self.is_mutable_collection(STREAM)

    def _context(self, first: Array, length: int, repeat_first: bool) -> tuple[Array, nn.Variable | None]:
        """`length` frames before a chunk that starts with first[batch, 1, channels], and where the next are kept."""
        batch, _, channels = first.shape
        zeros = jnp.zeros((batch, length, channels), first.dtype)
        fresh = jnp.repeat(first, length, axis=1) if repeat_first else zeros
        if not self._is_streaming() or length == 0:
            return fresh, None
        stored = self.variable(STREAM, "context", lambda: zeros)
        if not repeat_first:
            return stored.value, stored
        seen = self.variable(STREAM, "seen", jnp.zeros, (batch,), jnp.bool_)
        context = jnp.where(seen.value[:, None, None], stored.value, fresh)
        seen.value = jnp.ones((batch,), jnp.bool_)
        return context, stored

    def _kernel(self, shape: tuple[int, ...], init: Callable[..., Array], normed_axis: int | None) -> Array:
        if normed_axis is None:
            return self.param("kernel", init, shape)
        v = self.param("v", init, shape)
        others = tuple(i for i in range(len(shape)) if i != normed_axis)
        g = self.param("g", lambda _: jnp.sqrt(jnp.sum(v * v, axis=others, keepdims=True)))
        return normalize(v, g)

    def _convolve(
        self,
        x: Array,
        shape: tuple[int, int, int],
        kernel: Callable[[], Array],
        context: int,
        activation: Activation = NONE,
        bias: Array | None = None,
        residual: Array | None = None,
        stride: int = 1,
        dilation: int = 1,
        repeat_first: bool = False,
        scale: Array | Part | None = None,
        tail: Part | None = None,
    ) -> Array:
        """Convolution of activation(x), with `context` frames before it, with the kernel [taps, in, out] of `shape`.

        With scale[in], of rms_norm(x, scale) instead. XLA computes it or, where the kernel is packed, adjax.kernels,
        which alone takes `tail`.
        """
        packed = self.packed_kernel()
        if packed is not None:
            packed_bias = cast(Part, self.get_variable(PACKED, "bias"))
            earlier, stored = self._context(activation(x[:, :1]), context, repeat_first)
            added = None if bias is None else packed_bias
            y, later = kernels.conv(
                x,
                earlier,
                packed,
                added,
                residual,
                shape[-1],
                stride,
                dilation,
                activation.kind,
                activation.slope,
                cast(Part | None, scale),
                tail,
            )
            if stored is not None:
                stored.value = later
            return y
        if scale is not None:
            x, activation = rms_norm(x, cast(Array, scale)), NONE
        weights = kernel()
        x, padding = activation(x.astype(weights.dtype)), (0, 0)  # cast first: what is kept for gradients is small
        if self._is_streaming() or repeat_first:
            earlier, stored = self._context(x[:, :1], context, repeat_first)
            x = jnp.concatenate([earlier, x], axis=1)
            if stored is not None:
                stored.value = x[:, x.shape[1] - context :]
        else:  # the convolution pads: a training step need not copy x
            padding = (context, 0)
        y = convolve_time(x, weights, stride, padding, dilation).astype(jnp.float32)
        y = y if bias is None else y + bias
        return y if residual is None else residual + y


class RmsScale(nn.Module):
    """The learnt scale[channels] of an RMS norm, for the layer that takes the normalised input."""

    @nn.compact
    def __call__(self, channels: int) -> Array | Part:
        scale = self.param("scale", nn.initializers.ones, (channels,))
        return cast(Part, self.get_variable(PACKED, "scale")) if self.has_variable(PACKED, "scale") else scale


class RmsNorm(nn.Module):
    """x / rms(x) over channels, times a learnt scale."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return rms_norm(x, self.param("scale", nn.initializers.ones, (x.shape[-1],)))


class Conv(_Layer):
    """1-D convolution of the activated input, causal (left context only) or with symmetric zero padding.

    A causal layer's left context is (kernel_size - 1) * dilation samples: with stride s and kernel 2s, frame i then
    sees the input up to sample i*s, the first of its hop. `aligned` takes kernel_size - stride samples instead: frame i
    sees its whole hop, at the same streaming latency.

    Input [batch, time, in]; output [batch, ceil(time / stride), features] if causal (time / stride whole if aligned),
    plus `residual` of that shape, where given. With scale[in] (see RmsScale) the input is RMS-normalised instead of
    activated; with `tail` (see adjax.kernels.conv) the layer is a whole residual unit.
    """

    features: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1
    bias: bool = True
    causal: bool = True
    aligned: bool = False
    weight_norm: bool = False
    activation: Activation = NONE
    kernel_init: Callable[..., Array] | None = None

    @nn.compact
    def __call__(
        self, x: Array, residual: Array | None = None, scale: Array | Part | None = None, tail: Part | None = None
    ) -> Array:
        channels = x.shape[-1]
        init = fan_in_uniform(channels * self.kernel_size)
        shape = (self.kernel_size, channels, self.features)
        bias = self.param("bias", init, (self.features,)) if self.bias else None
        if self.causal:
            context = self.kernel_size - self.stride if self.aligned else (self.kernel_size - 1) * self.dilation
        else:  # every activation maps 0 to 0, so padding may come first
            side, context = (self.kernel_size - 1) // 2 * self.dilation, 0
            x = jnp.pad(x, ((0, 0), (side, side), (0, 0)))
        kernel = partial(self._kernel, shape, self.kernel_init or init, 2 if self.weight_norm else None)
        return self._convolve(
            x,
            shape,
            kernel,
            context,
            self.activation,
            bias,
            residual,
            self.stride,
            self.dilation,
            scale=scale,
            tail=tail,
        )


class Linear(_Layer):
    """A matrix product at each frame with a kernel [in, out]; otherwise as `Conv`."""

    features: int
    activation: Activation = NONE
    kernel_init: Callable[..., Array] = nn.initializers.lecun_normal()
    bias_init: Callable[..., Array] = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Array, residual: Array | None = None, scale: Array | Part | None = None) -> Array:
        channels = x.shape[-1]
        bias = self.param("bias", self.bias_init, (self.features,))

        def kernel() -> Array:
            return self.param("kernel", self.kernel_init, (channels, self.features))[None]

        shape = (1, channels, self.features)
        return self._convolve(x, shape, kernel, 0, self.activation, bias, residual, scale=scale)


class TransposedConv(_Layer):
    """Transposed 1-D convolution of the activated input, computed as a two-tap convolution over frames.

    The kernel has 2 * stride taps. Samples i*stride .. (i+1)*stride come from frames i-1 (tap 0) and i (tap 1); before
    the first frame stands that frame itself. Not causal: symmetric cropping instead. The kernel is stored as
    [2, in, stride * features], sample major.

    Input [batch, time, in]; output [batch, time * stride, features].
    """

    features: int
    stride: int
    bias: bool = True
    causal: bool = True
    weight_norm: bool = False
    activation: Activation = NONE

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, time, channels = x.shape
        init = fan_in_uniform(self.features * 2 * self.stride)
        shape = (2, channels, self.stride * self.features)
        kernel = partial(self._kernel, shape, init, 1 if self.weight_norm else None)
        if not self.causal:
            x = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
        y = self._convolve(x, shape, kernel, int(self.causal), self.activation, repeat_first=self.causal)
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
        return self._convolve(x, kernel.shape, lambda: jnp.asarray(kernel, x.dtype), kernel.shape[0] - 1)


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


class Memory(_Layer):
    """A recursion over frames: `run` takes what the frame before a chunk left to what the chunk leaves and a result."""

    @nn.compact
    def __call__(self, like: Array, run: Callable[[Array], tuple[Array, Any]]) -> Any:
        if not self._is_streaming():
            return run(jnp.zeros_like(like))[1]
        stored = self.variable(STREAM, "last", jnp.zeros_like, like)
        stored.value, result = run(stored.value)
        return result
