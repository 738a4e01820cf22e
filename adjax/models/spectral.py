"""adjax's own encoder and decoder: every layer at the frame rate, on whitened MDCT frames.

`sigma` (collection `stats`, [hop]) is the RMS of each MDCT bin over the training set: dividing by it whitens speech,
which falls 55 dB from 0 to 24 kHz. It is a constant of the model, not a parameter.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from adjax import config, dsp
from adjax.nn.blocks import FrameUnit
from adjax.nn.conv import STATS, Conv, FixedConv, FrameCounter, Linear, RmsNorm, RmsScale

_LARGEST_GAIN = 8.0  # natural logarithm: 69 dB


def _linear(features: int, fan_in: int, gain: float, name: str) -> Linear:
    return Linear(features, kernel_init=nn.initializers.normal(gain * fan_in**-0.5), name=name)


def transforms(hop_samples: int) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """The kernels that are fixed, by part and layer: what would stand among the parameters if it were learnt."""
    return {
        "encoder": {"analysis": {"kernel": dsp.analysis_kernel(hop_samples)}},
        "decoder": {"synthesis": {"kernel": dsp.synthesis_kernel(hop_samples)}},
    }


def _local_rms(bins: Array, width: int) -> Array:
    """RMS over `width` neighbouring bins (fewer at the ends); the magnitudes themselves if it is 1."""
    if width == 1:
        return bins
    index = np.arange(bins.shape[-1])
    near = (abs(index[:, None] - index) <= width // 2).astype(np.float32)
    return jnp.sqrt(jnp.square(bins) @ (near / near.sum(axis=0)) + 1e-14)


def _across_bands(bands: int, bins: int, sample_rate_hz: int) -> np.ndarray:
    """Linear interpolation float32[bands, bins] from points evenly spaced in mel, 0 Hz to half the sample rate."""
    points = dsp.mel_scale(np.linspace(0, sample_rate_hz / 2, bins))
    at = np.linspace(0, points[-1], bands)
    return np.stack([np.interp(points, at, row) for row in np.eye(bands)]).astype(np.float32)


class SpectralEncoder(nn.Module):
    """Audio [batch, frames * hop, 1] to features [batch, frames, channels]; a frame sees its hop and the one before."""

    config: config.SpectralEncoder
    remat: bool = False  # see adjax.models.codec.Codec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c, unit = self.config, nn.remat(FrameUnit) if self.remat else FrameUnit
        hop = c.hop_samples
        sigma = self.variable(STATS, "sigma", jnp.ones, (hop,)).value
        bins = FixedConv(name="analysis")(x.reshape(x.shape[0], -1, hop), dsp.analysis_kernel(hop))
        x = jnp.arcsinh(3 * bins / jnp.concatenate([sigma, sigma]))
        x = _linear(c.channels, 2 * hop, 1.0, "expand")(x)
        for i, dilation in enumerate(c.dilations):
            x = unit(dilation, name=f"units_{i}")(x)
        return RmsNorm(name="norm")(x)


class SpectralDecoder(nn.Module):
    """Latents [batch, frames, dim] to audio [batch, frames * hop, 1], `hop` samples late.

    With `gain_bands` a linear layer's bins are scaled by interpolated gains, exp of another's: the input of both is
    normalised and says little of loudness, which spans 60 dB. Above `random_signs_above_hz` the bins are noise: random
    signs and locally smooth magnitudes. The decoder would repeat one pattern frame after frame there, lines that mel
    bands cannot see and ears can.
    """

    config: config.SpectralDecoder
    sample_rate_hz: int
    remat: bool = False  # see adjax.models.codec.Codec

    @nn.compact
    def __call__(self, zq: Array) -> Array:
        c, unit = self.config, nn.remat(FrameUnit) if self.remat else FrameUnit
        hop = c.hop_samples
        batch, frames, dim = zq.shape
        sigma = self.variable(STATS, "sigma", jnp.ones, (hop,)).value
        x = Conv(c.channels, 3, kernel_init=nn.initializers.normal((3 * dim) ** -0.5), name="expand")(zq)
        for i, dilation in enumerate(c.dilations):
            x = unit(dilation, name=f"units_{i}")(x)
        scale = RmsScale(name="norm")(c.channels)
        bins = _linear(hop, c.channels, 0.1, "bins")(x, scale=scale) * sigma
        if c.gain_bands:
            gains = _linear(c.gain_bands, c.channels, 0.0, "gains")(x, scale=scale)
            across = _across_bands(c.gain_bands, hop, self.sample_rate_hz)
            bins *= jnp.exp(jnp.clip(gains, -_LARGEST_GAIN, _LARGEST_GAIN)) @ across
        first = min(hop, int(c.random_signs_above_hz * 2 * hop / self.sample_rate_hz))
        signs = dsp.frame_signs(FrameCounter(name="counter")(batch, frames), hop)
        noise = signs[..., first:] * _local_rms(bins[..., first:], c.noise_smoothing_bins)
        bins = jnp.concatenate([bins[..., :first], noise], axis=-1)
        return FixedConv(name="synthesis")(bins, dsp.synthesis_kernel(hop)).reshape(batch, -1, 1)
