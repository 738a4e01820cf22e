"""Metrics: perfect scores for perfect copies, known values for known errors, and the libraries' own for the rest."""

from __future__ import annotations

import numpy as np
import pytest
import soxr

from adjax import metrics
from adjax.errors import AdjaxError

RATE = 48000
RNG = np.random.default_rng(0)


def speech_like(seconds: float = 2.0) -> np.ndarray:
    """Harmonics of a gliding pitch, syllables at 4 Hz: enough for PESQ's and STOI's voice activity."""
    t = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * t)) / RATE
    tones = sum(np.sin(k * phase) / k for k in range(1, 30))
    return 0.1 * tones * np.maximum(0, np.sin(2 * np.pi * 4 * t)) + 1e-4 * RNG.standard_normal(len(t))


SPEECH = speech_like()
NOISY = SPEECH + 0.01 * RNG.standard_normal(len(SPEECH))


def test_identical_signals_are_perfect() -> None:
    """Zero distance and an infinite ratio, without warnings about logarithms of zero."""
    scores = metrics.quality(SPEECH, SPEECH, RATE)
    assert scores["log_spectral_distance"] == scores["mel_distance"] == 0
    assert scores["si_sdr_db"] == np.inf
    assert scores.get("stoi", 1) == pytest.approx(1)
    assert scores.get("pesq_wb", 4.644) == pytest.approx(4.644, abs=1e-3)


def test_si_sdr_of_a_known_error() -> None:
    """An orthogonal error of a tenth of the amplitude is 20 dB down, whatever the gain; with half of it, 26 dB."""
    t = np.arange(RATE) / RATE
    a, b = np.sin(2 * np.pi * 100 * t), np.sin(2 * np.pi * 200 * t)
    for gain in (1.0, -3.0):
        assert metrics.si_sdr_db(a, gain * (a + 0.1 * b)) == pytest.approx(20, abs=1e-6)
    assert metrics.si_sdr_db(a, a + 0.05 * b) == pytest.approx(26.0206, abs=1e-3)
    assert metrics.si_sdr_db(a, np.zeros_like(a)) == -np.inf
    with pytest.raises(AdjaxError, match="silent"):
        metrics.si_sdr_db(np.zeros_like(a), a)


def test_a_gain_moves_log_distances_by_its_logarithm() -> None:
    """Ten times the amplitude is 2 in log10 power and ln 10 in ln amplitude, in every bin and band over the floor."""
    x = 0.1 * RNG.standard_normal(3 * RATE)
    assert metrics.log_spectral_distance(x, 10 * x) == pytest.approx(2, abs=1e-6)
    assert metrics.mel_distance(x, 10 * x, RATE) == pytest.approx(np.log(10), abs=1e-6)


def test_log_spectral_distance_is_the_plain_formula() -> None:
    """Frames are taken some at a time to bound memory; the mean must not notice, also not at a partial last frame."""
    a, b = RNG.standard_normal((2, 700 * 512 + 100))
    n = 1 + -(-(len(a) - 2048) // 512)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    padded = np.zeros((2, 2048 + (n - 1) * 512))
    padded[:, : len(a)] = a, b
    frames = np.stack([padded[:, i * 512 : i * 512 + 2048] for i in range(n)], axis=1)
    power = np.log10(np.maximum(np.abs(np.fft.rfft(frames * window)) ** 2, 1e-10))
    expected = np.sqrt(((power[0] - power[1]) ** 2).mean(axis=1)).mean()
    assert metrics.log_spectral_distance(a, b) == pytest.approx(expected, rel=1e-5)


def test_pesq_is_the_librarys() -> None:
    pesq = pytest.importorskip("pesq")
    a, b = (soxr.resample(x, RATE, 16000) for x in (SPEECH, NOISY))
    assert metrics.pesq_wb(SPEECH, NOISY, RATE) == pytest.approx(pesq.pesq(16000, a, b, "wb"))
    assert metrics.pesq_wb(np.zeros(RATE), np.zeros(RATE), RATE) is None


def test_stoi_is_the_librarys() -> None:
    pystoi = pytest.importorskip("pystoi")
    a, b = (soxr.resample(x, RATE, 16000) for x in (SPEECH, NOISY))
    assert metrics.stoi(SPEECH, NOISY, RATE) == pytest.approx(pystoi.stoi(a, b, 16000))
    assert metrics.stoi(SPEECH[:4800], NOISY[:4800], RATE) is None, "too short: the library warns and gives 1e-5"


def test_quality_averages_channels() -> None:
    both = metrics.quality(np.stack([SPEECH, SPEECH], 1), np.stack([NOISY, 2 * NOISY], 1), RATE)
    first, second = metrics.quality(SPEECH, NOISY, RATE), metrics.quality(SPEECH, 2 * NOISY, RATE)
    assert both == pytest.approx({k: (first[k] + second[k]) / 2 for k in first})


def test_quality_of_silence_leaves_out_what_has_no_value() -> None:
    scores = metrics.quality(np.zeros(RATE), np.zeros(RATE), RATE)
    assert scores == {"log_spectral_distance": 0, "mel_distance": 0}


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(AdjaxError, match="cannot be compared"):
        metrics.quality(SPEECH, SPEECH[1:], RATE)
    with pytest.raises(AdjaxError, match="one length"):
        metrics.si_sdr_db(SPEECH, SPEECH[1:])
