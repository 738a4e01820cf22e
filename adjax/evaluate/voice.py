"""Metrics of the voice through WORLD (the `pyworld` package): pitch, voicing and mel-cepstral distortion.

As the published figures were computed: Harvest's F0 and CheapTrick's envelope every 5 ms, the envelope as a
mel-cepstrum. Sources: Morise et al., WORLD, IEICE Trans. 2016; Kubichek, mel-cepstral distance, PACRIM 1993.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from adjax.metrics import optional_package

FRAME_MS = 5.0
F0_FLOOR_HZ, F0_CEILING_HZ = 71.0, 800.0  # WORLD's; a file's range lies within
CEPSTRUM_ORDER = 24  # coefficients 1 to 24 count: what fits the published figures best
LOWEST_RATE_HZ = 8000  # Harvest works at about this rate

F0Range = tuple[float, float]


@dataclass(frozen=True)
class Analysis:
    """What WORLD finds: f0_hz[frames], 0 where unvoiced, and mel-cepstra[frames, CEPSTRUM_ORDER + 1]."""

    f0_hz: np.ndarray
    cepstra: np.ndarray


def f0_range(natural: np.ndarray, sample_rate_hz: int) -> F0Range:
    """An octave to either side of the median F0 of float[samples], within WORLD's bounds: these where none is voiced.

    Stands for the range of a speaker, which the published figures were given by hand.
    """
    f0 = _world().harvest(
        np.asarray(natural, np.float64),
        sample_rate_hz,
        f0_floor=F0_FLOOR_HZ,
        f0_ceil=F0_CEILING_HZ,
        frame_period=FRAME_MS,
    )[0]
    if not f0.any():
        return F0_FLOOR_HZ, F0_CEILING_HZ
    median = float(np.median(f0[f0 > 0]))
    return max(F0_FLOOR_HZ, median / 2), min(F0_CEILING_HZ, 2 * median)


def analyse(audio: np.ndarray, sample_rate_hz: int, bounds: F0Range) -> Analysis:
    """WORLD's analysis of float[samples], F0 searched within `bounds` in Hz."""
    world, audio = _world(), np.ascontiguousarray(audio, np.float64)
    f0, times = world.harvest(audio, sample_rate_hz, f0_floor=bounds[0], f0_ceil=bounds[1], frame_period=FRAME_MS)
    envelope = world.cheaptrick(audio, f0, times, sample_rate_hz)  # power [frames, bins]
    return Analysis(f0, mel_cepstra(envelope, mel_warping(sample_rate_hz)))


def voice_metrics(natural: Analysis, decoded: Analysis) -> dict[str, float | None]:
    """F0 RMSE over the frames that are voiced in both, voicing error, and mel-cepstral distortion over all frames."""
    a, b = natural.f0_hz, decoded.f0_hz
    both = (a > 0) & (b > 0)
    some = bool(both.any())
    cents = 1200 * np.log2(b[both] / a[both])
    squares = np.sum((natural.cepstra - decoded.cepstra)[:, 1:] ** 2, axis=1)
    return {
        "f0_rmse_hz": float(np.sqrt(np.mean((b - a)[both] ** 2))) if some else None,
        "f0_rmse_cents": float(np.sqrt(np.mean(cents**2))) if some else None,
        "voicing_error_percent": float(100 * np.mean((a > 0) != (b > 0))),
        "mel_cepstral_distortion_db": float(10 / np.log(10) * np.mean(np.sqrt(2 * squares))),
    }


def mel_cepstra(power: np.ndarray, warping: float, order: int = CEPSTRUM_ORDER) -> np.ndarray:
    """Mel-cepstra float64[frames, order + 1] of power spectra float[frames, bins], of natural logarithms.

    The cepstrum of the minimum-phase filter with this spectrum on the axis of an all-pass of coefficient `warping`
    (Tokuda et al., ICSLP 1994): what SPTK's `sp2mc` gives.
    """
    cepstra = np.fft.irfft(np.log(np.maximum(power, 1e-30)), axis=1)[:, : power.shape[1]]
    cepstra[:, 0] /= 2
    return cepstra @ _warping_matrix(power.shape[1], order, warping)


@lru_cache(maxsize=16)
def mel_warping(sample_rate_hz: int) -> float:
    """The all-pass coefficient, to 0.001, whose phase comes nearest to the mel scale: 0.554 at 48 kHz."""
    share = np.arange(1, 1000) / 1000
    mel = np.log1p(share * sample_rate_hz / 2000) / np.log1p(sample_rate_hz / 2000)
    tried = np.arange(0, 1, 0.001)[:, None]
    angle = np.pi * share
    phase = share + 2 / np.pi * np.arctan2(tried * np.sin(angle), 1 - tried * np.cos(angle))
    return float(tried[np.argmin(np.sum((phase - mel) ** 2, axis=1)), 0])


@lru_cache(maxsize=16)
def _warping_matrix(bins: int, order: int, warping: float) -> np.ndarray:
    """[bins, order + 1]: the recursion of Oppenheim and Johnson (Proc. IEEE 1972) on every unit cepstrum."""
    unit = np.eye(bins)
    warped = np.zeros((order + 1, bins))
    for i in range(bins - 1, -1, -1):
        before = warped.copy()
        warped[0] = unit[i] + warping * before[0]
        if order:
            warped[1] = (1 - warping**2) * before[0] + warping * before[1]
        for k in range(2, order + 1):
            warped[k] = before[k - 1] + warping * (before[k] - warped[k - 1])
    return warped.T.copy()


def _world() -> Any:
    world = optional_package("pyworld")
    if world is None:
        raise ModuleNotFoundError("No module named 'pyworld'", name="pyworld")
    return world
