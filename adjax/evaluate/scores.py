"""All metrics of one decoded file, raw and with a constant lag undone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adjax.evaluate import voice
from adjax.metrics import mean_over_channels, optional_package, quality, visqol

LAG_LIMIT_S = 60.0  # of a file, searched for its lag
SI_SDR_BOUND_DB = 100.0  # 16-bit audio is never nearer to anything but itself

Scores = dict[str, float]


@dataclass(frozen=True)
class Metric:
    """How a metric is called and printed; `package` is what computes it, where adjax itself does not."""

    name: str
    label: str
    unit: str
    higher_is_better: bool
    decimals: int
    package: str | None = None


@dataclass(frozen=True)
class Scored:
    """Metrics of one file by one system."""

    raw: Scores
    compensated: Scores


METRICS = (
    Metric("pesq_wb", "PESQ-WB", "", True, 2, "pesq"),
    Metric("stoi", "STOI", "", True, 3, "pystoi"),
    Metric("visqol", "ViSQOL", "", True, 2, "visqol"),
    Metric("log_spectral_distance", "LSD", "log10 power", False, 2),
    Metric("mel_distance", "mel distance", "ln amplitude", False, 2),
    Metric("mel_cepstral_distortion_db", "MCD", "dB", False, 2, "pyworld"),
    Metric("f0_rmse_hz", "F0 RMSE", "Hz", False, 1, "pyworld"),
    Metric("f0_rmse_cents", "F0 RMSE", "cents", False, 0, "pyworld"),
    Metric("voicing_error_percent", "U/V error", "%", False, 1, "pyworld"),
    Metric("si_sdr_db", "SI-SDR", "dB", True, 1),
)


def missing_packages() -> dict[str, list[str]]:
    """Packages of the extras `evaluation` and `visqol` that are not installed, each with the metrics it would give."""
    missing: dict[str, list[str]] = {}
    for metric in METRICS:
        if metric.package and optional_package(metric.package) is None:
            missing.setdefault(metric.package, []).append(metric.name)
    return missing


def find_lag(natural: np.ndarray, decoded: np.ndarray, most: int) -> int | None:
    """Samples, -most to most, by which `decoded` is behind `natural` at the largest cross-correlation.

    float[samples, channels] of one shape; the correlations of all channels are added. None where either is silent.
    """
    if not natural.any() or not decoded.any():
        return None
    size = 1 << (len(natural) + most - 1).bit_length()
    product = np.fft.rfft(decoded, size, axis=0) * np.conj(np.fft.rfft(natural, size, axis=0))
    correlation = np.fft.irfft(product.sum(axis=1), size)
    lags = np.array(sorted(range(-most, most + 1), key=abs))  # of equal ones the smallest
    return int(lags[np.argmax(correlation[lags])])


class Scorer:
    """Scores decoded versions of one natural file, float[samples, channels], whose analysis by WORLD is done once."""

    def __init__(self, natural: np.ndarray, sample_rate_hz: int) -> None:
        self._natural, self._rate = natural, sample_rate_hz
        self._voiced = sample_rate_hz >= voice.LOWEST_RATE_HZ and optional_package("pyworld") is not None
        self._analyses: dict[tuple[int, int, int], voice.Analysis] = {}
        if self._voiced:
            self._bounds = [voice.f0_range(channel, sample_rate_hz) for channel in natural.T]

    def scores(self, decoded: np.ndarray, lag: int = 0) -> Scores:
        """Metrics by name, means over channels, of what both have in common once `decoded` is moved back by `lag`.

        What has no value there, or whose package is missing, is left out. SI-SDR is kept within SI_SDR_BOUND_DB.
        """
        first, last = max(0, -lag), len(self._natural) - max(0, lag)  # of the natural file
        rows = []
        for i, sound in enumerate(decoded[first + lag : last + lag].T):
            natural = self._natural[first:last, i]
            row: dict[str, float | None] = {**(heard := quality(natural, sound, self._rate))}
            row["visqol"] = visqol(natural, sound, self._rate)
            if "si_sdr_db" in heard:
                row["si_sdr_db"] = float(np.clip(heard["si_sdr_db"], -SI_SDR_BOUND_DB, SI_SDR_BOUND_DB))
            if self._voiced:
                row |= voice.voice_metrics(
                    self._analysis(i, first, last), voice.analyse(sound, self._rate, self._bounds[i])
                )
            rows.append(row)
        means = mean_over_channels(rows)
        return {metric.name: means[metric.name] for metric in METRICS if metric.name in means}

    def _analysis(self, channel: int, first: int, last: int) -> voice.Analysis:
        key = channel, first, last
        if key not in self._analyses:
            natural = self._natural[first:last, channel]
            self._analyses[key] = voice.analyse(natural, self._rate, self._bounds[channel])
        return self._analyses[key]
