"""Noise for a crop: a random span of a random file at a random signal-to-noise ratio."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from adjax.train.data.reading import finite_span
from adjax.train.data.sources import Source


def random_noise(
    rng: np.random.Generator,
    clean: np.ndarray,
    noise: Sequence[Source],
    snr_db: tuple[float, float],
    sample_rate_hz: int,
    channels: int,
) -> np.ndarray:
    """What to add to a crop float32[samples, channels]: noise at a ratio to it that is uniform in `snr_db`.

    Files of `noise` are longer than the crop. Silent noise stays silence. Raises as `finite_span`.
    """
    source = noise[int(rng.integers(len(noise)))]
    start = int(rng.integers(source.samples(sample_rate_hz) - len(clean) + 1))
    channel = int(rng.integers(source.channels)) if channels == 1 else None
    ratio_db = rng.uniform(*snr_db)
    added = finite_span(source, start, len(clean), sample_rate_hz, channel)
    power, noise_power = (np.mean(np.square(x, dtype=np.float64)) for x in (clean, added))
    gain = math.sqrt(power / max(noise_power, 1e-20) * 10.0 ** (-ratio_db / 10)) if noise_power else 0.0
    return added * np.float32(gain)
