"""AudioDec's vocoders: HiFi-GAN's generator with causal layers (Wu et al., 2023, section 3.2; Kong et al., 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from adjax import config
from adjax.nn.blocks import DilatedBlock
from adjax.nn.conv import STATS, Conv, TransposedConv, leaky

LAST_SLOPE = 0.01  # of the leaky ReLU before the last convolution, whatever the others have


class ReceptiveFieldFusion(nn.Module):
    """Mean of residual blocks with several kernels (HiFi-GAN's multi-receptive-field fusion)."""

    config: config.Vocoder

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c = self.config
        rows = zip(c.block_kernels, c.block_dilations, strict=True)
        return _mean([_block(c, kernel, row, f"blocks_{j}")(x) for j, (kernel, row) in enumerate(rows)])


class GroupFusion(nn.Module):
    """Parallel residual blocks on one input, concatenated and mixed by a 1x1 convolution (multi-group).

    The published program tiles the channels and runs grouped convolutions. Groups never meet before the mix, so here
    each is a block of its own: plain convolutions, whose gradients are not slow and which run side by side.
    """

    config: config.Vocoder

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c = self.config
        (kernel,), (dilations,) = c.block_kernels, c.block_dilations
        groups = [_block(c, kernel, dilations, f"groups_{g}")(x) for g in range(c.groups)]
        mixed = jnp.concatenate(groups, axis=-1)
        return Conv(x.shape[-1], 1, bias=False, weight_norm=c.weight_norm, name="conv_out")(mixed)


class Vocoder(nn.Module):
    """Latents [batch, frames, dim] to audio [batch, frames * hop, channels].

    `mean` and `scale` (collection `stats`, [dim]) are those of the latents over the training set.
    """

    config: config.Vocoder
    remat: bool = False  # see adjax.models.codec.Codec

    @nn.compact
    def __call__(self, zq: Array) -> Array:
        c = self.config
        if c.statistics:
            mean = self.variable(STATS, "mean", jnp.zeros, (zq.shape[-1],)).value
            scale = self.variable(STATS, "scale", jnp.ones, (zq.shape[-1],)).value
            zq = (zq - mean) / scale
        norm, fusion = c.weight_norm, GroupFusion if c.groups > 1 else ReceptiveFieldFusion
        fusion = nn.remat(fusion) if self.remat else fusion
        x = Conv(c.channels, c.kernel_size, bias=c.bias, weight_norm=norm, name="input_conv")(zq)
        for i, stride in enumerate(c.strides):
            channels, act = c.channels >> (i + 1), leaky(c.slope)
            x = TransposedConv(channels, stride, c.bias, weight_norm=norm, activation=act, name=f"upsamples_{i}")(x)
            x = fusion(c, name=f"blocks_{i}")(x)
        last = Conv(
            c.out_channels,
            c.kernel_size,
            bias=c.bias,
            weight_norm=norm,
            activation=leaky(LAST_SLOPE),
            name="output_conv",
        )
        return jnp.tanh(last(x))


def _block(c: config.Vocoder, kernel: int, dilations: tuple[int, ...], name: str) -> DilatedBlock:
    return DilatedBlock(kernel, dilations, c.additional_convs, c.slope, c.bias, c.weight_norm, name=name)


def _mean(arrays: Sequence[Array]) -> Array:
    total = arrays[0]
    for x in arrays[1:]:
        total += x
    return total / len(arrays)
