"""adjax's own encoder and decoder: every layer at the frame rate, on whitened MDCT frames.

`sigma` (collection `stats`, [hop]) is the RMS of each MDCT bin over the training set: dividing by it whitens speech,
which falls 55 dB from 0 to 24 kHz. It is a constant of the model, not a parameter.

The two work on gain and shape, as CELT does (Valin et al., 2013): levels of bands go beside bins that are freed of
them. They start as a plain transform coder, whose latents are the lowest bins and the levels: training begins with
speech and not with noise, which spares it the longest part of its way.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from adjax import config, dsp
from adjax.nn.blocks import FrameUnit
from adjax.nn.conv import STATS, Conv, FixedConv, FrameCounter, Linear, RmsNorm, RmsScale

_LARGEST_GAIN = 8.0  # natural logarithm: 69 dB
_FLOOR = 1e-6  # of a band's power, relative to the training set's: silence is -60 dB
_LEVEL = 0.3  # channels hold levels times this, so that they are about as large as bins


def _passing(rows: np.ndarray, factors: np.ndarray, deviation: float = 0.0) -> Callable[..., Array]:
    """Initialiser of a kernel [..., in, out]: output i is this frame's input rows[i] times factors[i].

    Outputs after these are random mixtures, of weights with the given standard deviation.
    """

    def init(key: Array, shape: tuple[int, ...]) -> Array:
        kernel = (deviation * jax.random.normal(key, shape)).at[..., : len(rows)].set(0)
        here = (-1,) * (len(shape) - 2)
        return kernel.at[(*here, rows, np.arange(len(rows)))].set(jnp.asarray(factors, kernel.dtype))

    return init


def _latent_scale(dim: int, bands: int, hop: int, sample_rate_hz: int) -> np.ndarray:
    """A transform coder's latents over its channels: bins by the root of the complex loss's weight, levels by 1."""
    bins_hz = (np.arange(dim - bands) + 0.5) * sample_rate_hz / (2 * hop)
    return np.concatenate([(1 + bins_hz / 700) ** -0.5, np.full(bands, 1 / _LEVEL)])


def projection_init(encoder: config.SpectralEncoder, dim: int, sample_rate_hz: int) -> Callable[..., Array]:
    """How the projector after a spectral encoder starts: the first channels are the latents, to scale."""
    return _passing(np.arange(dim), _latent_scale(dim, encoder.gain_bands, encoder.hop_samples, sample_rate_hz))


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


def _levels(power: Array, across: np.ndarray) -> Array:
    """Natural logarithms of the bands' RMS, of the power of MDCT and MDST together."""
    return jnp.log(power @ (across.T / across.sum(axis=1).clip(1e-6) / 2) + _FLOOR) / 2


class SpectralEncoder(nn.Module):
    """Audio [batch, frames * hop, 1] to features [batch, frames, channels]; a frame sees its hop and the one before.

    The first `dim` channels start as the lowest bins over their level, and the levels.
    """

    config: config.SpectralEncoder
    sample_rate_hz: int
    dim: int  # of the latents
    remat: bool = False  # see adjax.models.codec.Codec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c, unit = self.config, nn.remat(FrameUnit) if self.remat else FrameUnit
        hop, bands = c.hop_samples, c.gain_bands
        sigma = self.variable(STATS, "sigma", jnp.ones, (hop,)).value
        bins = FixedConv(name="analysis")(x.reshape(x.shape[0], -1, hop), dsp.analysis_kernel(hop))
        bins /= jnp.concatenate([sigma, sigma])
        across = _across_bands(bands, hop, self.sample_rate_hz)
        power = jnp.square(bins[..., :hop]) + jnp.square(bins[..., hop:])
        if c.noise_floor_db is not None:
            power += 2 * 10 ** (c.noise_floor_db / 10) / jnp.square(sigma)
        levels = _levels(power, across)
        gains = jnp.exp(-levels @ across)
        x = jnp.concatenate([jnp.arcsinh(bins * jnp.concatenate([gains, gains], axis=-1)), levels], axis=-1)
        lowest = self.dim - bands
        rows = np.concatenate([np.arange(lowest), 2 * hop + np.arange(bands)])
        start = _passing(rows, np.repeat([1, _LEVEL], [lowest, bands]), (2 * hop + bands) ** -0.5)
        x = Linear(c.channels, kernel_init=start, name="expand")(x)
        for i, dilation in enumerate(c.dilations):
            x = unit(dilation, name=f"units_{i}")(x)
        return RmsNorm(name="norm")(x)


class SpectralDecoder(nn.Module):
    """Latents [batch, frames, dim] to audio [batch, frames * hop, 1], `hop` samples late.

    Above `random_signs_above_hz` the bins are noise: random signs and locally smooth magnitudes. The decoder would
    repeat one pattern frame after frame there, lines that mel bands cannot see and ears can.
    """

    config: config.SpectralDecoder
    sample_rate_hz: int
    remat: bool = False  # see adjax.models.codec.Codec

    @nn.compact
    def __call__(self, zq: Array) -> Array:
        c, unit = self.config, nn.remat(FrameUnit) if self.remat else FrameUnit
        hop, bands = c.hop_samples, c.gain_bands
        batch, frames, dim = zq.shape
        lowest, noise_from = dim - bands, min(hop, int(c.random_signs_above_hz * 2 * hop / self.sample_rate_hz))
        sigma = self.variable(STATS, "sigma", jnp.ones, (hop,)).value
        start = _passing(np.arange(dim), 1 / _latent_scale(dim, bands, hop, self.sample_rate_hz), (3 * dim) ** -0.5)
        x = Conv(c.channels, 3, kernel_init=start, name="expand")(zq)
        for i, dilation in enumerate(c.dilations):
            x = unit(dilation, name=f"units_{i}")(x)
        scale = RmsScale(name="norm")(c.channels)
        shape_start = _passing(np.arange(lowest), np.ones(lowest))
        gain_start = _passing(np.arange(lowest, dim), np.full(bands, 1 / _LEVEL))
        noise_start = nn.initializers.constant(np.arange(hop) >= noise_from)
        bins = Linear(hop, kernel_init=shape_start, bias_init=noise_start, name="bins")(x, scale=scale) * sigma
        levels = Linear(bands, kernel_init=gain_start, name="gains")(x, scale=scale)
        bins *= jnp.exp(
            jnp.clip(levels, -_LARGEST_GAIN, _LARGEST_GAIN) @ _across_bands(bands, hop, self.sample_rate_hz)
        )
        signs = dsp.frame_signs(FrameCounter(name="counter")(batch, frames), hop)
        noise = signs[..., noise_from:] * _local_rms(bins[..., noise_from:], c.noise_smoothing_bins)
        bins = jnp.concatenate([bins[..., :noise_from], noise], axis=-1)
        return FixedConv(name="synthesis")(bins, dsp.synthesis_kernel(hop)).reshape(batch, -1, 1)
