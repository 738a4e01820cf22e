"""AudioDec's symmetric autoencoder: its encoder and its mirrored decoder (Wu et al., 2023, section 3.1)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from adjax import config
from adjax.nn.blocks import ResidualUnit
from adjax.nn.conv import ELU, NONE, Conv, TransposedConv, elu

DILATIONS = (1, 3, 9)


class EncoderBlock(nn.Module):
    """Residual units at the incoming width, then a strided convolution."""

    channels: int
    stride: int
    encoder: config.ConvEncoder

    @nn.compact
    def __call__(self, x: Array) -> Array:
        e = self.encoder
        for i, dilation in enumerate(DILATIONS):
            x = ResidualUnit(dilation, e.causal, e.weight_norm, name=f"res_units_{i}")(x)
        return Conv(
            self.channels,
            2 * self.stride,
            self.stride,
            bias=e.bias,
            causal=e.causal,
            aligned=e.aligned,
            weight_norm=e.weight_norm,
            name="conv",
        )(x)


class ConvEncoder(nn.Module):
    """Audio [batch, samples, channels] to features [batch, ceil(samples / hop), width]."""

    config: config.ConvEncoder
    remat: bool = False  # see Codec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c, block = self.config, nn.remat(EncoderBlock) if self.remat else EncoderBlock
        x = Conv(c.channels, 7, bias=False, causal=c.causal, weight_norm=c.weight_norm, name="conv")(x)
        for i, (ratio, stride) in enumerate(zip(c.ratios, c.strides, strict=True)):
            x = block(c.channels * ratio, stride, c, name=f"conv_blocks_{i}")(x)
        return elu(x) if c.activate else x


class DecoderBlock(nn.Module):
    """Transposed convolution (symAAD: of the activated input), then residual units at the outgoing width."""

    channels: int
    stride: int
    decoder: config.ConvDecoder

    @nn.compact
    def __call__(self, x: Array) -> Array:
        d = self.decoder
        act = ELU if d.activate else NONE
        x = TransposedConv(self.channels, self.stride, d.bias, d.causal, d.weight_norm, act, name="conv")(x)
        for i, dilation in enumerate(DILATIONS):
            x = ResidualUnit(dilation, d.causal, d.weight_norm, name=f"res_units_{i}")(x)
        return x


class ConvDecoder(nn.Module):
    """Latents [batch, frames, dim] to audio [batch, frames * hop, channels]."""

    config: config.ConvDecoder
    remat: bool = False  # see Codec

    @nn.compact
    def __call__(self, zq: Array) -> Array:
        c, block = self.config, nn.remat(DecoderBlock) if self.remat else DecoderBlock
        norm = c.weight_norm
        x = Conv(c.channels * c.ratios[0], 7, bias=False, causal=c.causal, weight_norm=norm, name="conv1")(zq)
        for i, (ratio, stride) in enumerate(zip((*c.ratios[1:], 1), c.strides, strict=True)):
            x = block(c.channels * ratio, stride, c, name=f"conv_blocks_{i}")(x)
        act = ELU if c.activate else NONE
        last = Conv(c.out_channels, 7, bias=False, causal=c.causal, weight_norm=norm, activation=act, name="conv2")
        return jnp.tanh(last(x)) if c.activate else last(x)
