"""Discriminators: on the waveform at several scales and periods, and on spectrograms.

Every sub-discriminator gives the list of its layers' outputs, each after its activation; the last is the raw score.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from adjax import config, dsp
from adjax.nn.conv import STATS
from adjax.nn.normed import NormedConv

Outputs = list[list[Array]]  # by sub-discriminator, by layer

FLOOR = 1e-7  # under |X|^2 of a frame, where amplitudes are raised to a power: a root has no slope at 0
STFT_SLOPE = 0.2  # of the leaky ReLU in the STFT discriminator; SoundStream's paper names no activation there


class ScaleDiscriminator(nn.Module):
    """Strided, grouped convolutions on x[batch, time, 1]; the outputs are [batch, frames, channels]."""

    config: config.MultiScale

    @nn.compact
    def __call__(self, x: Array) -> list[Array]:
        c = self.config
        first, strided, last_but_one, last = c.kernel_sizes
        width, groups = c.channels, 4
        layers = [(width, first, 1, 1)]  # features, kernel, stride, groups
        for stride in c.strides:
            layers.append((width, strided, stride, groups))
            width, groups = min(2 * width, c.max_channels), min(4 * groups, c.max_groups)
        width = layers[-1][0]
        layers += [(width, last_but_one, 1, 1), (1, last, 1, 1)]
        outputs = []
        for i, (features, kernel, stride, groups) in enumerate(layers):
            conv = NormedConv(features, (kernel,), (stride,), (kernel // 2,), groups, c.norm, name=f"layers_{i}")
            x = conv(x)
            if i < len(layers) - 1:
                x = nn.leaky_relu(x, c.slope)
            outputs.append(x)
        return outputs


class MultiScale(nn.Module):
    """Copies of one discriminator, on the signal and on it average-pooled once, twice ... (HiFi-GAN, section 2.3)."""

    config: config.MultiScale
    remat: bool = False  # see Discriminators

    @nn.compact
    def __call__(self, audio: Array) -> Outputs:
        discriminator = nn.remat(ScaleDiscriminator) if self.remat else ScaleDiscriminator
        outputs = []
        for i in range(self.config.scales):
            if i:  # the published pooling counts the padding in the mean
                audio = nn.avg_pool(audio, (4,), (2,), [(2, 2)], count_include_pad=True)  # type: ignore[arg-type]
            outputs.append(discriminator(self.config, name=f"discriminators_{i}")(audio))
        return outputs


class PeriodDiscriminator(nn.Module):
    """Strided convolutions along every `period`-th sample of audio[batch, samples, 1].

    The kernels are one sample wide across the period, whose phases are therefore signals of their own in the batch. The
    outputs are [batch, period, frames, channels].
    """

    config: config.MultiPeriod
    period: int

    @nn.compact
    def __call__(self, audio: Array) -> list[Array]:
        c, (batch, samples, _) = self.config, audio.shape
        x = jnp.pad(audio[..., 0], ((0, 0), (0, -samples % self.period)), mode="reflect")
        x = x.reshape(batch, -1, self.period).swapaxes(1, 2).reshape(batch * self.period, -1, 1)
        kernel, last = c.kernel_sizes
        outputs = []
        for i, stride in enumerate(c.strides):
            features = min(c.channels * 4**i, c.max_channels)
            x = NormedConv(features, (kernel,), (stride,), (kernel // 2,), norm=c.norm, name=f"convs_{i}")(x)
            x = nn.leaky_relu(x, c.slope)
            outputs.append(x)
        outputs.append(NormedConv(1, (last - 1,), (1,), ((last - 1) // 2,), norm=c.norm, name="output_conv")(x))
        return [x.reshape(batch, self.period, *x.shape[1:]) for x in outputs]


class MultiPeriod(nn.Module):
    """A discriminator for each period (HiFi-GAN, section 2.3)."""

    config: config.MultiPeriod
    remat: bool = False  # see Discriminators

    @nn.compact
    def __call__(self, audio: Array) -> Outputs:
        discriminator = nn.remat(PeriodDiscriminator) if self.remat else PeriodDiscriminator
        periods = enumerate(self.config.periods)
        return [discriminator(self.config, p, name=f"discriminators_{i}")(audio) for i, p in periods]


class ResolutionDiscriminator(nn.Module):
    """2-D convolutions on a magnitude spectrogram; the outputs are [batch, frames, bins, channels].

    `window` (collection `stats`, [win_length]) is a periodic Hann window, as checkpoints carry it.
    """

    config: config.MultiResolution
    index: int

    @nn.compact
    def __call__(self, audio: Array) -> list[Array]:
        c, length = self.config, self.config.win_lengths[self.index]
        window = self.variable(STATS, "window", lambda: jnp.asarray(dsp.hann(length, length))).value
        padded = jnp.pad(audio[..., 0], ((0, 0), (length // 2, length // 2)))
        spectrum = dsp.stft(padded, c.fft_sizes[self.index], c.hop_samples[self.index], window)
        x = dsp.safe_abs(spectrum, 0.0 if c.exponent == 1 else FLOOR)[..., None]
        x = x if c.exponent == 1 else x**c.exponent
        outputs = []
        for i, (kernel, strides) in enumerate(zip(c.kernel_sizes, c.strides, strict=True)):
            final = i == len(c.strides) - 1
            half = (kernel[0] // 2, kernel[1] // 2)
            x = NormedConv(1 if final else c.channels, kernel, strides, half, norm=c.norm, name=f"layers_{i}")(x)
            if not final:
                x = nn.leaky_relu(x, c.slope)
            outputs.append(x)
        return outputs


class MultiResolution(nn.Module):
    """A discriminator for each STFT resolution (UnivNet, section 2.2)."""

    config: config.MultiResolution
    remat: bool = False  # see Discriminators

    @nn.compact
    def __call__(self, audio: Array) -> Outputs:
        discriminator = nn.remat(ResolutionDiscriminator) if self.remat else ResolutionDiscriminator
        resolutions = range(len(self.config.fft_sizes))
        return [discriminator(self.config, i, name=f"discriminators_{i}")(audio) for i in resolutions]


class StftUnit(nn.Module):
    """Residual unit of the STFT discriminator: a 3x3 convolution, then a strided one, beside a strided 1x1 shortcut."""

    features: int
    strides: tuple[int, int]
    norm: config.Norm

    @nn.compact
    def __call__(self, x: Array) -> Array:
        frames, bins = self.strides
        y = NormedConv(x.shape[-1], (3, 3), (1, 1), (1, 1), norm=self.norm, name="conv1")(x)
        y = nn.leaky_relu(y, STFT_SLOPE)
        y = NormedConv(self.features, (frames + 2, bins + 2), self.strides, (1, 1), norm=self.norm, name="conv2")(y)
        x = x[:, ::frames, ::bins][:, : y.shape[1], : y.shape[2]]
        x = NormedConv(self.features, (1, 1), (1, 1), (0, 0), norm=self.norm, name="shortcut")(x)
        return nn.leaky_relu(x + y, STFT_SLOPE)


class ComplexStft(nn.Module):
    """SoundStream's discriminator on the real and imaginary parts of an STFT (section III-D, figure 4).

    Bins up to but without half the sample rate, in units of the window's norm; leaky ReLU after every layer but the
    last, which takes in all bins that the strides left. The outputs are [batch, frames, bins, channels].
    """

    config: config.ComplexStft

    @nn.compact
    def __call__(self, audio: Array) -> Outputs:
        c = self.config
        window = dsp.hann(c.fft_size, c.fft_size)
        spectrum = dsp.stft(audio[..., 0], c.fft_size, c.hop_samples)[..., :-1] / float((window @ window) ** 0.5)
        x = jnp.stack([jnp.real(spectrum), jnp.imag(spectrum)], axis=-1)
        x = nn.leaky_relu(NormedConv(c.channels, (7, 7), (1, 1), (3, 3), norm=c.norm, name="input_conv")(x), STFT_SLOPE)
        outputs = [x]
        for i, (multiplier, strides) in enumerate(zip(c.multipliers, c.strides, strict=True)):
            x = StftUnit(multiplier * c.channels, strides, c.norm, name=f"units_{i}")(x)
            outputs.append(x)
        outputs.append(NormedConv(1, (1, x.shape[2]), (1, 1), (0, 0), norm=c.norm, name="output_conv")(x))
        return [outputs]


class Discriminators(nn.Module):
    """All configured discriminators on audio[batch, samples, 1], in the order scale, resolution, stft, period.

    Scores of different kinds have different shapes: losses average each over all its elements. Raises ValueError for
    audio of more than one channel (fold channels into the batch) or shorter than the kernels. `remat` as in Codec, of
    each sub-discriminator.
    """

    config: config.Discriminators
    remat: bool = False

    @nn.compact
    def __call__(self, audio: Array) -> Outputs:
        c, outputs = self.config, []
        if audio.ndim != 3 or audio.shape[-1] != 1:
            raise ValueError(f"discriminators take audio [batch, samples, 1], not {audio.shape}")
        if c.scale:
            outputs += MultiScale(c.scale, self.remat, name="scale")(audio)
        if c.resolution:
            outputs += MultiResolution(c.resolution, self.remat, name="resolution")(audio)
        if c.stft:
            stft = nn.remat(ComplexStft) if self.remat else ComplexStft
            outputs += stft(c.stft, name="stft")(audio)
        if c.period:
            outputs += MultiPeriod(c.period, self.remat, name="period")(audio)
        return outputs
