"""Losses as pure functions.

Metric losses are of decoded and natural audio [batch, samples] (channels folded into the batch); adversarial ones are
of discriminators' outputs: for each sub-discriminator the list of its layers' outputs, the last the raw score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from adjax import dsp
from adjax.config import Losses, Mel, Spectral, Stft

Outputs = Sequence[Sequence[Array]]
Kind = Literal["mse", "hinge"]

_FLOOR = 1e-10


def log_mel(x: Array, config: Mel, sample_rate_hz: int, resolution: int = 0) -> Array:
    """Log-mel spectrogram [batch, frames, bands] at one of the configured resolutions."""
    fft_size, win_length = config.fft_sizes[resolution], config.win_lengths[resolution]
    spectrum = dsp.stft(x, fft_size, config.hop_samples[resolution], win_length)
    amplitude = dsp.safe_abs(spectrum, _FLOOR)
    bands = config.bands[resolution]
    filters = dsp.mel_filters(sample_rate_hz, fft_size, bands, config.fmin_hz, config.fmax_hz)
    if config.density:
        window = dsp.hann(win_length, fft_size)
        return jnp.log((amplitude / float((window @ window) ** 0.5)) @ _unit_sum(filters) + 1e-5)
    logarithm = jnp.log(jnp.maximum(amplitude @ filters, _FLOOR))
    return logarithm if config.log_base is None else logarithm / jnp.log(config.log_base)


def mel_loss(decoded: Array, natural: Array, config: Mel, sample_rate_hz: int) -> Array:
    """Mean absolute difference of log-mel spectrograms, averaged over resolutions (AudioDec's metric loss)."""
    losses = [
        jnp.mean(jnp.abs(log_mel(decoded, config, sample_rate_hz, i) - log_mel(natural, config, sample_rate_hz, i)))
        for i in range(len(config.fft_sizes))
    ]
    return sum(losses, jnp.float32(0)) / len(losses)


def global_norm(x: Array, axis: str | None) -> Array:
    """Frobenius norm of x over all devices of `axis`, whose local gradient averages to the gradient of the global norm.

    Collectives stay out of the differentiated path: their transposes differ between pmap and shard_map.
    """
    square = jnp.sum(x * x)
    if axis is None:
        return jnp.sqrt(square)
    fixed = lax.stop_gradient(square)
    norm = jnp.sqrt(lax.psum(fixed, axis))
    return norm + lax.psum(1, axis) * (square - fixed) / (2 * norm)


def stft_losses(decoded: Array, natural: Array, config: Stft, axis: str | None = None) -> tuple[Array, Array]:
    """Spectral convergence and log-magnitude distance, averaged over resolutions (Parallel WaveGAN, equations 4, 5)."""
    convergence = magnitude = jnp.float32(0)
    for fft_size, hop, win_length in zip(config.fft_sizes, config.hop_samples, config.win_lengths, strict=True):
        x = dsp.safe_abs(dsp.stft(decoded, fft_size, hop, win_length), 1e-7)
        y = dsp.safe_abs(dsp.stft(natural, fft_size, hop, win_length), 1e-7)
        convergence += global_norm(y - x, axis) / global_norm(y, axis)
        magnitude += jnp.mean(jnp.abs(jnp.log(y) - jnp.log(x)))
    return convergence / len(config.fft_sizes), magnitude / len(config.fft_sizes)


def shape_loss(decoded: Array, natural: Array, windows: tuple[int, ...]) -> Array:
    """Mean absolute difference of the max-pooled envelopes, averaged over window lengths in samples."""

    def envelope(x: Array, window: int) -> Array:
        whole = x.shape[1] // window * window
        return jnp.max(jnp.abs(x[:, :whole]).reshape(x.shape[0], -1, window), axis=-1)

    losses = [jnp.mean(jnp.abs(envelope(decoded, w) - envelope(natural, w))) for w in windows]
    return sum(losses, jnp.float32(0)) / len(losses)


def spectral_loss(decoded: Array, natural: Array, config: Spectral, sample_rate_hz: int) -> Array:
    """SoundStream's multi-scale spectral reconstruction loss (Zeghidour et al., 2021, equations 4 and 5).

    For each window length s, hop s/4: the L1 distance of the mel spectra of a frame (summed over bands), plus sqrt(s/2)
    times the L2 distance of their logarithms (root of the sum of squares over bands). Each is averaged over all frames
    of the batch, where the paper sums over frames; the window lengths are summed. The spectra are of the amplitude of
    an STFT without normalisation, which grows with sqrt(s) as the second term's weight does, through filters that each
    sum to one; the logarithm is ln(mel + 1e-5).
    """
    total = jnp.float32(0)
    for length in config.win_lengths:
        filters = _unit_sum(dsp.mel_filters(sample_rate_hz, length, config.bands))
        x, y = (dsp.safe_abs(dsp.stft(a, length, length // 4), _FLOOR) @ filters for a in (decoded, natural))
        square = jnp.sum((jnp.log(x + 1e-5) - jnp.log(y + 1e-5)) ** 2, axis=-1)
        total += jnp.mean(jnp.sum(jnp.abs(x - y), axis=-1)) + (length / 2) ** 0.5 * jnp.mean(dsp.safe_sqrt(square))
    return total


def _unit_sum(filters: np.ndarray) -> np.ndarray:
    """Filters [bins, bands], each scaled to the sum 1; those between two bins, all zeros, stay so."""
    return filters / filters.sum(axis=0).clip(1e-6)


def complex_loss(decoded: Array, natural: Array, config: Mel, sample_rate_hz: int, below_hz: float | None) -> Array:
    """Squared error of compressed complex spectra |Z|^0.3 e^(j phase), weighted by 1 / (1 + f / 700 Hz)."""
    total = jnp.float32(0)
    for fft_size, hop, win_length in zip(config.fft_sizes, config.hop_samples, config.win_lengths, strict=True):
        window = dsp.hann(win_length, fft_size)
        norm = float((window @ window) ** 0.5)
        top = fft_size // 2 + 1 if below_hz is None else int(below_hz / sample_rate_hz * fft_size)
        weight = 1 / (1 + jnp.arange(top) * (sample_rate_hz / fft_size / 700))

        def compressed(x: Array, fft_size: int = fft_size, hop: int = hop, win_length: int = win_length) -> Array:
            z = dsp.stft(x, fft_size, hop, win_length)[..., :top] / norm  # noqa: B023
            return z * dsp.safe_abs(z, 1e-8) ** -0.7

        difference = compressed(decoded) - compressed(natural)
        total += jnp.mean((jnp.real(difference) ** 2 + jnp.imag(difference) ** 2) * weight)
    return total / len(config.fft_sizes)


def magnitude_loss(decoded: Array, natural: Array, config: Mel, sample_rate_hz: int, above_hz: float) -> Array:
    """Mean absolute difference of natural-log STFT amplitudes from `above_hz` on, averaged over resolutions."""
    total = jnp.float32(0)
    for fft_size, hop, win_length in zip(config.fft_sizes, config.hop_samples, config.win_lengths, strict=True):
        first = math.ceil(above_hz / sample_rate_hz * fft_size)
        x, y = (dsp.safe_abs(dsp.stft(a, fft_size, hop, win_length)[..., first:], _FLOOR) for a in (decoded, natural))
        total += jnp.mean(jnp.abs(jnp.log(x) - jnp.log(y)))
    return total / len(config.fft_sizes)


def error_loss(decoded: Array, natural: Array) -> Array:
    """Noise-to-signal ratio in dB, averaged over crops."""
    noise = jnp.sum((decoded - natural) ** 2, axis=1) + 1e-4
    return jnp.mean(10 * jnp.log10(noise / (jnp.sum(natural**2, axis=1) + 1e-4)))


def metric_losses(
    decoded: Array, natural: Array, config: Losses, sample_rate_hz: int, axis: str | None = None
) -> dict[str, Array]:
    """Every metric loss with a weight, after its weight, under the name it is logged by; local means over `axis`."""
    losses: dict[str, Array] = {}
    if config.mel_weight:
        losses["mel_loss"] = config.mel_weight * mel_loss(decoded, natural, config.mel, sample_rate_hz)
    if config.stft_weight:
        convergence, magnitude = stft_losses(decoded, natural, config.stft, axis)
        losses["spectral_convergence_loss"] = config.stft_weight * convergence
        losses["log_stft_magnitude_loss"] = config.stft_weight * magnitude
    if config.shape_weight:
        losses["shape_loss"] = config.shape_weight * shape_loss(decoded, natural, config.shape_windows)
    if config.spectral_weight:
        losses["spectral_loss"] = config.spectral_weight * spectral_loss(
            decoded, natural, config.spectral, sample_rate_hz
        )
    if config.complex_weight:
        losses["complex_loss"] = config.complex_weight * complex_loss(
            decoded, natural, config.mel, sample_rate_hz, config.complex_below_hz
        )
    if config.magnitude_weight:
        losses["magnitude_loss"] = config.magnitude_weight * magnitude_loss(
            decoded, natural, config.mel, sample_rate_hz, config.magnitude_above_hz
        )
    if config.error_weight:
        losses["error_loss"] = config.error_weight * error_loss(decoded, natural)
    return losses


def generator_adversarial(outputs: Outputs, kind: Kind, average: bool) -> Array:
    """What the generator pays where its signals' scores are not those of natural ones.

    mse: mean (D - 1)^2 (least-squares GAN); hinge: -mean D. Scores are averaged within each sub-discriminator, then
    summed over them, or averaged if `average`.
    """
    return _over_scores(outputs, (lambda d: (d - 1) ** 2) if kind == "mse" else jnp.negative, average)


def discriminator_adversarial(real: Outputs, fake: Outputs, kind: Kind, average: bool) -> tuple[Array, Array]:
    """What the discriminators pay for natural and for generated signals, summed or averaged as the generator's.

    mse: mean (D - 1)^2 and mean D^2; hinge: mean max(0, 1 - D) and mean max(0, 1 + D).
    """
    if kind == "mse":
        return generator_adversarial(real, kind, average), _over_scores(fake, jnp.square, average)
    return (
        _over_scores(real, lambda d: jnp.maximum(0, 1 - d), average),
        _over_scores(fake, lambda d: jnp.maximum(0, 1 + d), average),
    )


def _over_scores(outputs: Outputs, penalty: Callable[[Array], Array], average: bool) -> Array:
    total = sum((jnp.mean(penalty(layers[-1])) for layers in outputs), jnp.float32(0))
    return total / len(outputs) if average else total


def feature_matching(
    fake: Outputs, real: Outputs, by_layers: bool, by_discriminators: bool, final_outputs: bool
) -> Array:
    """Mean absolute difference of each layer's outputs, summed over layers and sub-discriminators.

    The natural side carries no gradient. `by_layers` averages over a sub-discriminator's compared layers instead,
    `by_discriminators` over sub-discriminators; `final_outputs` compares the scores too.
    """
    total = jnp.float32(0)
    for fakes, reals in zip(fake, real, strict=True):
        count = len(fakes) - (not final_outputs)
        pairs = zip(fakes[:count], reals[:count], strict=True)
        distance = sum((jnp.mean(jnp.abs(x - lax.stop_gradient(y))) for x, y in pairs), jnp.float32(0))
        total += distance / count if by_layers else distance
    return total / len(fake) if by_discriminators else total
