"""Metrics: perfect scores for perfect copies, known values for known errors, and the libraries' own for the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soxr

from adjax import metrics
from adjax.errors import AdjaxError
from adjax.evaluate import voice

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


def test_visqol_is_the_librarys() -> None:
    visqol = pytest.importorskip("visqol")
    api = visqol.VisqolApi()
    api.create(mode="audio")
    a, b = (soxr.resample(x, RATE, 48000) for x in (SPEECH, NOISY))
    assert metrics.visqol(SPEECH, NOISY, RATE) == pytest.approx(api.measure_from_arrays(a, b, 48000).moslqo)
    assert metrics.visqol(SPEECH, SPEECH, RATE) > metrics.visqol(SPEECH, NOISY, RATE)
    assert metrics.visqol(np.zeros(RATE), np.zeros(RATE), RATE) is None
    assert metrics.visqol(SPEECH[:480], NOISY[:480], RATE) is None, "too short: the library refuses"


def test_a_folder_without_a_package_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches stay behind when a package is uninstalled, and Python imports their folder."""
    (tmp_path / "left_behind" / "__pycache__").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    assert metrics.optional_package("left_behind") is None
    assert metrics.optional_package("numpy") is np


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


def test_log_spectral_distance_of_a_known_filter() -> None:
    """An impulse in the middle of a frame shows the filter's response: the distance is the RMS of its log10 power."""
    impulse, tilted = np.zeros((2, 2048))
    impulse[1024], tilted[1024], tilted[1025] = 1, 1, -0.9
    response = np.abs(1 - 0.9 * np.exp(-1j * np.linspace(0, np.pi, 1025)))
    expected = np.sqrt(np.mean(np.log10(response**2) ** 2))
    assert metrics.log_spectral_distance(impulse, tilted) == pytest.approx(expected, rel=1e-4)


def test_voice_metrics_by_hand() -> None:
    """Only frames voiced in both count for F0, an octave is 1200 cents, and the 0th coefficient, the level, is free."""
    natural = voice.Analysis(np.array([100.0, 200, 0, 300, 0]), np.zeros((5, 25)))
    cepstra = np.zeros((5, 25))
    cepstra[:, 0], cepstra[1, 3], cepstra[1, 4] = 7, 0.3, 0.4
    decoded = voice.Analysis(np.array([200.0, 200, 50, 0, 0]), cepstra)
    found = voice.voice_metrics(natural, decoded)
    assert found["f0_rmse_hz"] == pytest.approx(np.sqrt(100**2 / 2))
    assert found["f0_rmse_cents"] == pytest.approx(1200 / np.sqrt(2))
    assert found["voicing_error_percent"] == pytest.approx(40)
    assert found["mel_cepstral_distortion_db"] == pytest.approx(10 / np.log(10) * np.sqrt(2) * 0.5 / 5)
    unvoiced = voice.Analysis(np.zeros(5), cepstra)
    assert voice.voice_metrics(unvoiced, decoded)["f0_rmse_hz"] is None


@pytest.mark.parametrize(("rate", "expected"), [(16000, 0.410), (22050, 0.455), (44100, 0.544), (48000, 0.554)])
def test_mel_warping_is_the_usual_one(rate: int, expected: float) -> None:
    """The all-pass coefficients that the field's tables give for these rates."""
    assert voice.mel_warping(rate) == pytest.approx(expected)


def test_mel_cepstrum_without_warping_is_the_cepstrum() -> None:
    """On an axis that is not warped, one pole at 0.5 has the cepstrum 0.5^n / n: textbook, and 0 for the level."""
    response = 1 / (1 - 0.5 * np.exp(-1j * np.linspace(0, np.pi, 513)))
    found = voice.mel_cepstra(np.abs(response[None]) ** 2, 0.0, order=6)[0]
    assert found == pytest.approx([0, *(0.5**n / n for n in range(1, 7))], abs=1e-9)


def test_mel_cepstra_are_sptks() -> None:
    pysptk = pytest.importorskip("pysptk")
    power = np.exp(RNG.standard_normal((3, 257)))
    assert voice.mel_cepstra(power, 0.41) == pytest.approx(pysptk.sp2mc(power, voice.CEPSTRUM_ORDER, 0.41), abs=1e-9)


def test_voice_analysis_of_a_shifted_pitch() -> None:
    """Pulses at 120 and 126 Hz differ by 6 Hz, 84 cents; the same signal does not differ, nor does its gain matter."""
    pytest.importorskip("pyworld")
    rate = 16000
    t = np.arange(rate // 2) / rate

    def pulses(f0: float) -> np.ndarray:
        return 0.02 * sum(np.cos(2 * np.pi * f0 * k * t) for k in range(1, 40))

    low, high = pulses(120), pulses(126)
    bounds = voice.f0_range(low, rate)
    assert bounds == pytest.approx((71, 240), abs=2)
    natural = voice.analyse(low, rate, bounds)
    assert set(voice.voice_metrics(natural, voice.analyse(low, rate, bounds)).values()) == {0}
    moved = voice.voice_metrics(natural, voice.analyse(high, rate, bounds))
    assert moved["f0_rmse_hz"] == pytest.approx(6, abs=0.5)
    assert moved["f0_rmse_cents"] == pytest.approx(1200 * np.log2(126 / 120), abs=6)
    louder = voice.voice_metrics(natural, voice.analyse(3 * low, rate, bounds))
    assert louder["mel_cepstral_distortion_db"] == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize(("rate", "samples"), [(8000, 800), (96000, 9600)])
def test_voice_analysis_of_what_has_none(rate: int, samples: int) -> None:
    """A tenth of a second of silence, noise or a constant: finite cepstra, and no F0 error where nothing is voiced."""
    pytest.importorskip("pyworld")
    odd = (np.zeros(samples), 0.1 * RNG.standard_normal(samples), np.full(samples, 0.5))
    made = [voice.analyse(sound, rate, (200.0, 400.0)) for sound in odd]
    assert voice.f0_range(np.zeros(samples), rate) == (voice.F0_FLOOR_HZ, voice.F0_CEILING_HZ)
    for found in made:
        assert np.isfinite(found.cepstra).all()
        marks = voice.voice_metrics(made[0], found)
        assert marks["f0_rmse_hz"] is None
        assert np.isfinite(marks["mel_cepstral_distortion_db"] or 0.0)


def test_voice_analysis_is_the_librarys() -> None:
    pyworld = pytest.importorskip("pyworld")
    rate, sound = 16000, np.ascontiguousarray(soxr.resample(SPEECH[: RATE // 2], RATE, 16000))
    f0, times = pyworld.harvest(sound, rate, f0_floor=80.0, f0_ceil=300.0, frame_period=5.0)
    found = voice.analyse(sound, rate, (80.0, 300.0))
    assert found.f0_hz == pytest.approx(f0)
    envelope = pyworld.cheaptrick(sound, f0, times, rate)
    assert found.cepstra == pytest.approx(voice.mel_cepstra(envelope, voice.mel_warping(rate)))
    assert found.f0_hz.any()
