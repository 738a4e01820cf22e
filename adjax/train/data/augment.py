"""Other microphones and rooms: random frequency responses and background noise, the same for all signals of a crop."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from adjax.config import Augmentation
from adjax.train.data.mixing import random_noise
from adjax.train.data.sources import Source

LOWEST_HZ = 50.0  # a filter is at least a period of it long, which is what bounds its resolution
FLOOR_DB = -80.0  # of band limits: the logarithm needs one


def filter_taps(sample_rate_hz: int) -> int:
    """Length of the filters, a power of two and at least a period of LOWEST_HZ: 1024 at 48 kHz."""
    return 1 << math.ceil(math.log2(sample_rate_hz / LOWEST_HZ))


def lead_samples(augmentation: Augmentation, sample_rate_hz: int) -> int:
    """Samples that must precede a crop so that its filter starts with what a filter of the whole file would hold."""
    return filter_taps(sample_rate_hz) - 1 if augmentation.filters else 0


def random_response(rng: np.random.Generator, augmentation: Augmentation, frequencies_hz: np.ndarray) -> np.ndarray:
    """A random smooth frequency response in dB, float64 as `frequencies_hz`, which ascend to half the sample rate.

    Levels at points evenly spaced in mel are uniform within the bound and joined by half cosines, so that no frequency
    exceeds it; band limits come on top.
    """
    mel = np.log1p(frequencies_hz / 700)
    points = mel * (augmentation.equalizer_points - 1) / mel[-1]
    levels = rng.uniform(-augmentation.equalizer_db, augmentation.equalizer_db, augmentation.equalizer_points)
    left = np.minimum(points.astype(int), augmentation.equalizer_points - 2)
    weight = (1 - np.cos(np.pi * (points - left))) / 2
    response = levels[left] * (1 - weight) + levels[left + 1] * weight
    low_pass, high_pass = augmentation.low_pass_hz, augmentation.high_pass_hz
    for limits, share, sign in ((low_pass, augmentation.low_pass_share, 1), (high_pass, 1.0, -1)):
        if limits is not None and (share == 1 or rng.uniform() < share):
            cutoff = math.exp(rng.uniform(*np.log(limits)))
            ratio = sign * 2 * augmentation.poles * np.log(np.maximum(frequencies_hz, 1e-3) / cutoff)
            response = response - np.minimum(10 / math.log(10) * np.logaddexp(0, ratio), -FLOOR_DB)
    return response


def minimum_phase(response_db: np.ndarray, taps: int) -> np.ndarray:
    """The causal filter, float64[taps], with a response in dB given at even steps from 0 to half the sample rate.

    Its energy comes as early as it can, as a microphone's does. By the real cepstrum, folded onto positive times; the
    last quarter of the taps is faded out.
    """
    cepstrum = np.fft.irfft(response_db * (math.log(10) / 20))
    half = len(cepstrum) // 2
    cepstrum[1:half] *= 2
    cepstrum[half + 1 :] = 0
    impulse = np.fft.irfft(np.exp(np.fft.rfft(cepstrum)))[:taps]
    fade = taps // 4
    impulse[-fade:] *= (1 + np.cos(np.pi * (np.arange(fade) + 0.5) / fade)) / 2
    return impulse


def random_filter(rng: np.random.Generator, augmentation: Augmentation, sample_rate_hz: int) -> np.ndarray:
    """A random microphone's impulse response, float64[filter_taps]."""
    taps = filter_taps(sample_rate_hz)
    frequencies = np.linspace(0, sample_rate_hz / 2, 2 * taps + 1)
    return minimum_phase(random_response(rng, augmentation, frequencies), taps)


def filtered(audio: np.ndarray, impulse: np.ndarray) -> np.ndarray:
    """`audio` [samples, channels] through a filter, without its first taps - 1 samples, in the type of `audio`."""
    size = len(audio) + len(impulse) - 1
    size = 1 << (size - 1).bit_length()
    spectrum = np.fft.rfft(audio, size, axis=0) * np.fft.rfft(impulse, size)[:, None]
    return np.fft.irfft(spectrum, size, axis=0)[len(impulse) - 1 : len(audio)].astype(audio.dtype)


def augmented(
    rng: np.random.Generator,
    signals: Sequence[np.ndarray],
    augmentation: Augmentation,
    noise: Sequence[Source],
    sample_rate_hz: int,
    channels: int,
) -> list[np.ndarray]:
    """Signals of a crop, float32[lead + samples, channels] each, in one random room and by one random microphone.

    The same noise is added to all of them, at a ratio to the last, and the same filter applied; without their first
    `lead_samples`. A random share of the crops is left as it is. Raises as `random_noise`.
    """
    signals = list(signals)
    lead = lead_samples(augmentation, sample_rate_hz)
    if rng.random() >= augmentation.share:
        return [signal[lead:] for signal in signals]
    if noise:
        added = random_noise(rng, signals[-1], noise, augmentation.noise_snr_db, sample_rate_hz, channels)
        signals = [signal + added for signal in signals]
    if augmentation.filters:
        impulse = random_filter(rng, augmentation, sample_rate_hz)
        signals = [filtered(signal, impulse) for signal in signals]
    return signals


def over_floor(rng: np.random.Generator, signals: Sequence[np.ndarray], floor_db: float) -> list[np.ndarray]:
    """Signals of a crop, float32 of one shape, over the same white Gaussian noise, in dB relative to full scale."""
    noise = rng.standard_normal(signals[0].shape, np.float32) * np.float32(10 ** (floor_db / 20))
    return [signal + noise for signal in signals]
