"""Objective quality of decoded against natural speech, in numpy; PESQ and STOI through the `evaluation` extra."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import soxr

from adjax.dsp import hann, mel_filters
from adjax.errors import AdjaxError

FFT_SIZE, HOP_SAMPLES, MEL_BANDS = 2048, 512, 80
POWER_FLOOR = 1e-10  # under every |X|^2 of full-scale 1: about -160 dB against a sine of full scale
MEL_FLOOR = 1e-5  # under every mel amplitude
PERCEPTUAL_RATE_HZ = 16000
PERCEPTUAL_LIMIT_S = 60.0
VISQOL_RATE_HZ = 48000
_FRAMES_AT_ONCE = 512


def si_sdr_db(reference: np.ndarray, decoded: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB of float[samples]; inf for a scaled copy, -inf for silence.

    The mean is not taken off. Raises AdjaxError for a silent reference. Source: Le Roux et al., ICASSP 2019, eq. 1.
    """
    reference, decoded = _pair(reference, decoded)
    energy = reference @ reference
    if not energy:
        raise AdjaxError("si_sdr_db: the reference is silent")
    target = (decoded @ reference / energy) * reference
    signal, error = target @ target, np.sum((decoded - target) ** 2)
    if not signal:
        return float("-inf")
    if error <= signal * 1e-24:  # rounding of float64
        return float("inf")
    return float(10 * np.log10(signal / error))


def log_spectral_distance(reference: np.ndarray, decoded: np.ndarray) -> float:
    """Mean over frames of the RMS over bins of the difference of log10 power; 0 is perfect.

    float[samples] both; Hann windows of FFT_SIZE every HOP_SAMPLES, no padding but zeros at the end, power not under
    POWER_FLOOR. Ten times this is in dB.
    """
    distances = [
        np.sqrt(np.mean((_log_power(a) - _log_power(b)) ** 2, axis=1)) for a, b in _spectra(reference, decoded)
    ]
    return float(np.concatenate(distances).mean())


def mel_distance(reference: np.ndarray, decoded: np.ndarray, sample_rate_hz: int) -> float:
    """Mean absolute difference of natural-log mel amplitudes, MEL_BANDS of Slaney's from 0 Hz; 0 is perfect.

    float[samples] both; frames as in `log_spectral_distance`, amplitudes not under MEL_FLOOR.
    """
    filters = mel_filters(sample_rate_hz, FFT_SIZE, MEL_BANDS).astype(np.float64)
    distances = [
        np.abs(np.log(np.maximum(a @ filters, MEL_FLOOR)) - np.log(np.maximum(b @ filters, MEL_FLOOR))).mean(axis=1)
        for a, b in _spectra(reference, decoded)
    ]
    return float(np.concatenate(distances).mean())


def pesq_wb(reference: np.ndarray, decoded: np.ndarray, sample_rate_hz: int) -> float | None:
    """PESQ wide band (ITU-T P.862.2) of float[samples], 1.04 to 4.64, over the first PERCEPTUAL_LIMIT_S.

    None without the `pesq` package, and where it finds no speech or too little of it in either signal.
    """
    pesq = optional_package("pesq")
    if pesq is None:
        return None
    natural, coded = _perceptual(reference, decoded, sample_rate_hz)
    if not natural.any() or not coded.any():
        return None
    try:
        return float(pesq.pesq(PERCEPTUAL_RATE_HZ, natural, coded, "wb"))
    except (pesq.NoUtterancesError, pesq.BufferTooShortError):
        return None


def stoi(reference: np.ndarray, decoded: np.ndarray, sample_rate_hz: int) -> float | None:
    """Short-time objective intelligibility of float[samples], 1 at best, over the first PERCEPTUAL_LIMIT_S.

    None without the `pystoi` package, and where it finds too little speech (30 frames of 25.6 ms, half overlapping).
    """
    pystoi = optional_package("pystoi")
    if pystoi is None:
        return None
    natural, coded = _perceptual(reference, decoded, sample_rate_hz)
    if not natural.any() or len(natural) < 0.5 * PERCEPTUAL_RATE_HZ:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # its sign of too little speech, beside a score of 1e-5
            return float(pystoi.stoi(natural, coded, PERCEPTUAL_RATE_HZ))
    except RuntimeWarning:
        return None


def visqol(reference: np.ndarray, decoded: np.ndarray, sample_rate_hz: int) -> float | None:
    """ViSQOL in its audio mode, full band at VISQOL_RATE_HZ, of float[samples], 1 to 4.73, over the first minute.

    None without the `visqol` package, for silence, and where it finds too little (0.6 s). A constant lag is its own to
    undo. Source: Chinen et al., ViSQOL v3, QoMEX 2020.
    """
    package = optional_package("visqol")
    if package is None:
        return None
    natural, coded = _perceptual(reference, decoded, sample_rate_hz, VISQOL_RATE_HZ)
    if not natural.any() or not coded.any():
        return None
    try:
        score = float(_visqol(package).measure_from_arrays(natural, coded, VISQOL_RATE_HZ).moslqo)
    except ValueError:  # its sign of a file shorter than it needs
        return None
    return score if math.isfinite(score) else None


def quality(reference: np.ndarray, decoded: np.ndarray, sample_rate_hz: int) -> dict[str, float]:
    """The quick metrics of float[samples] or float[samples, channels] (averaged over channels), by name.

    `pesq_wb`, `stoi` and `si_sdr_db` are left out where a channel has none. Raises AdjaxError for unequal shapes.
    """
    reference, decoded = np.atleast_2d(np.asarray(reference).T), np.atleast_2d(np.asarray(decoded).T)
    if reference.shape != decoded.shape:
        raise AdjaxError(f"quality: {reference.shape[::-1]} and {decoded.shape[::-1]} samples cannot be compared")
    return mean_over_channels(
        [
            {
                "pesq_wb": pesq_wb(a, b, sample_rate_hz),
                "stoi": stoi(a, b, sample_rate_hz),
                "log_spectral_distance": log_spectral_distance(a, b),
                "mel_distance": mel_distance(a, b, sample_rate_hz),
                "si_sdr_db": si_sdr_db(a, b) if np.any(a) else None,
            }
            for a, b in zip(reference, decoded, strict=True)
        ]
    )


def mean_over_channels(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """Means, by metric, of a row for each channel; metrics that some channel has no value of are left out."""
    means = {}
    for name in rows[0]:
        values = [value for row in rows if (value := row.get(name)) is not None]
        if len(values) == len(rows):
            means[name] = sum(values) / len(values)
    return means


def amplitudes(audio: np.ndarray, fft_size: int = FFT_SIZE, hop_samples: int = HOP_SAMPLES) -> np.ndarray:
    """STFT amplitudes float64[frames, fft_size // 2 + 1] of float[samples], the last frame padded with zeros."""
    audio = np.asarray(audio, np.float64)
    frames = 1 + max(0, -(-(len(audio) - fft_size) // hop_samples))
    padded = np.zeros(fft_size + (frames - 1) * hop_samples)
    padded[: len(audio)] = audio
    windows = np.lib.stride_tricks.sliding_window_view(padded, fft_size)[::hop_samples]
    return np.abs(np.fft.rfft(windows * hann(fft_size, fft_size)))


def _spectra(reference: np.ndarray, decoded: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Amplitudes of both, some frames at a time."""
    reference, decoded = _pair(reference, decoded)
    step, overlap = _FRAMES_AT_ONCE * HOP_SAMPLES, FFT_SIZE - HOP_SAMPLES
    for start in range(0, max(1, len(reference) - overlap), step):
        part = slice(start, start + step + overlap)
        yield amplitudes(reference[part]), amplitudes(decoded[part])


def _log_power(amplitude: np.ndarray) -> np.ndarray:
    return np.log10(np.maximum(amplitude**2, POWER_FLOOR))


def _pair(reference: np.ndarray, decoded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    reference, decoded = np.asarray(reference, np.float64), np.asarray(decoded, np.float64)
    if reference.ndim != 1 or reference.shape != decoded.shape or not reference.size:
        raise AdjaxError(f"metrics need two signals of one length, not {reference.shape} and {decoded.shape}")
    return reference, decoded


def _perceptual(
    reference: np.ndarray, decoded: np.ndarray, sample_rate_hz: int, heard_at_hz: int = PERCEPTUAL_RATE_HZ
) -> tuple[np.ndarray, np.ndarray]:
    """The first PERCEPTUAL_LIMIT_S of both, resampled."""
    limit = int(PERCEPTUAL_LIMIT_S * sample_rate_hz)
    pair = _pair(reference[:limit], decoded[:limit])
    first, second = (soxr.resample(x, sample_rate_hz, heard_at_hz) for x in pair)
    return first, second


@cache
def _visqol(package: ModuleType) -> Any:
    api = package.VisqolApi()
    api.create(mode="audio")
    return api


def optional_package(name: str) -> ModuleType | None:
    """A package of the `evaluation` extra; None where it, or what it needs itself, is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pyworld's of pkg_resources
            found = import_module(name)
    except ImportError:
        return None
    return found if getattr(found, "__file__", None) else None  # or a folder that an uninstalled package left behind


__all__ = [
    "amplitudes",
    "log_spectral_distance",
    "mean_over_channels",
    "mel_distance",
    "optional_package",
    "pesq_wb",
    "quality",
    "si_sdr_db",
    "stoi",
    "visqol",
]
