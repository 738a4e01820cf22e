"""Blocks shared by models: residual units of AudioDec's codec and vocoders, and at the frame rate (adjax's own)."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
from jax import Array

from adjax.nn.conv import ELU, Conv, Linear, RmsScale, leaky


class ResidualUnit(nn.Module):
    """AudioDec's residual unit: x + conv_1x1(elu(conv_k7(elu(x)))), without biases."""

    dilation: int
    causal: bool = True
    weight_norm: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        conv = partial(Conv, channels, bias=False, causal=self.causal, weight_norm=self.weight_norm, activation=ELU)
        first, second = conv(kernel_size=7, dilation=self.dilation, name="conv1"), conv(kernel_size=1, name="conv2")
        tail = second.packed_kernel() if self.causal else None
        return second(first(x), residual=x) if tail is None else first(x, tail=tail)


class DilatedBlock(nn.Module):
    """HiFi-GAN's residual block: x + conv(act(conv_dilated(act(x)))) for each dilation, act a leaky ReLU.

    Without `additional` there is the dilated convolution only.
    """

    kernel_size: int
    dilations: tuple[int, ...]
    additional: bool = True
    slope: float = 0.1
    bias: bool = True
    weight_norm: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv = partial(
            Conv,
            x.shape[-1],
            self.kernel_size,
            bias=self.bias,
            weight_norm=self.weight_norm,
            activation=leaky(self.slope),
        )
        for i, dilation in enumerate(self.dilations):
            first = conv(dilation=dilation, name=f"convs1_{i}")
            x = conv(name=f"convs2_{i}")(first(x), residual=x) if self.additional else first(x, residual=x)
        return x


class FrameUnit(nn.Module):
    """Residual unit at the frame rate: x + conv_1x1(elu(conv_k3(rms_norm(x)))), the branch started small."""

    dilation: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        wide = nn.initializers.normal((channels * 3) ** -0.5)
        narrow = nn.initializers.normal(0.03 * channels**-0.5)
        scale = RmsScale(name="norm")(channels)
        y = Conv(channels, 3, dilation=self.dilation, kernel_init=wide, name="conv1")(x, scale=scale)
        return Linear(channels, ELU, narrow, name="conv2")(y, residual=x)
