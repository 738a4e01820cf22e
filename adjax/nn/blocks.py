"""Blocks shared by models: residual units at the sample rate (AudioDec) and at the frame rate (adjax's own)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from adjax.nn.conv import Conv, elu


class ResidualUnit(nn.Module):
    """AudioDec's residual unit: x + conv_1x1(elu(conv_k7(elu(x)))), without biases."""

    dilation: int
    causal: bool = True
    weight_norm: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        norm = self.weight_norm
        y = Conv(channels, 7, dilation=self.dilation, bias=False, causal=self.causal, weight_norm=norm, name="conv1")(
            elu(x)
        )
        y = Conv(channels, 1, bias=False, causal=self.causal, weight_norm=norm, name="conv2")(elu(y))
        return x + y


class RmsNorm(nn.Module):
    """x / rms(x) over channels, times a learnt scale."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * scale


class FrameUnit(nn.Module):
    """Residual unit at the frame rate: x + conv_1x1(elu(conv_k3(rms_norm(x)))), the branch started small."""

    dilation: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        wide = nn.initializers.normal((channels * 3) ** -0.5)
        narrow = nn.initializers.normal(0.3 * channels**-0.5)
        y = Conv(channels, 3, dilation=self.dilation, kernel_init=wide, name="conv1")(RmsNorm(name="norm")(x))
        return x + nn.Dense(channels, kernel_init=narrow, name="conv2")(elu(y))
