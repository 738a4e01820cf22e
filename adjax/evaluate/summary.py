"""What an evaluation found, as plain values: rows, means with confidence intervals, bitrates, codebook use."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import soundfile

from adjax.evaluate import opus, scores, voice
from adjax.evaluate.scores import METRICS, Scored
from adjax.evaluate.systems import CodedFile, Item, System

SCHEMA = 1
RESAMPLES, CONFIDENCE, SEED = 10_000, 0.95, 0
ALIGNMENTS = ("raw", "compensated")


def mean_with_interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean and its percentile bootstrap interval (Efron, 1979) over RESAMPLES draws of as many values.

    {"mean", "low", "high", "files"}; without values mean is None, and with fewer than two so are the bounds. The
    draws depend on SEED and the number of values alone, so that intervals of one table rest on the same draws.
    """
    x = np.asarray(values, np.float64)
    low = high = None
    if len(x) > 1:
        rng = np.random.default_rng(SEED)
        means = np.concatenate(
            [x[rng.integers(0, len(x), (100, len(x)))].mean(axis=1) for _ in range(RESAMPLES // 100)]
        )
        tail = 50 * (1 - CONFIDENCE)
        low, high = (float(p) for p in np.percentile(means, (tail, 100 - tail)))
    return {"mean": float(x.mean()) if len(x) else None, "low": low, "high": high, "files": len(x)}


def codebook_use(counts: np.ndarray, frame_rate_hz: float) -> dict[str, Any]:
    """Codes used and entropy in bits of each stage, of int[codebooks, size], and kbps of one stream at that entropy.

    Stages are taken by themselves and frames as independent: what an ideal entropy coder that knows only how often
    each code occurs would spend. Estimated from few frames it is somewhat too low.
    """
    stages = []
    for row in counts:
        share = row[row > 0] / row.sum()
        stages.append(
            {"used": len(share), "size": len(row), "entropy_bits": float(-(share * np.log2(share)).sum()) + 0.0}
        )
    bits = sum(stage["entropy_bits"] for stage in stages)
    return {"frames": int(counts[0].sum()), "stages": stages, "entropy_kbps": bits * frame_rate_hz / 1000}


def results(
    items: Sequence[Item],
    systems: Sequence[System],
    coded: Sequence[CodedFile],
    lags_s: Sequence[float],
    scored: Sequence[Sequence[Scored | str | None]],
    save_audio: bool,
) -> dict[str, Any]:
    """Everything as JSON values; docs/quality.md describes it."""
    rows, failures, unavailable = [], [], []
    for item, file, marks in zip(items, coded, scored, strict=True):
        if file.error is not None:
            failures.append({"file": item.name, "system": None, "reason": file.error})
            continue
        for i, system in enumerate(systems):
            made, found = file.made[i], marks[i]
            if made.coded is None or found is None or isinstance(found, str):
                reason = found if isinstance(found, str) else made.error
                where = unavailable if made.unavailable else failures
                where.append({"file": item.name, "system": system.name, "reason": reason})
                continue
            rows.append(_row(item, system, file, i, found, save_audio))
    return {
        "schema": SCHEMA,
        "settings": _settings(),
        "versions": _versions(),
        "metrics": [asdict(metric) for metric in METRICS],
        "missing": scores.missing_packages(),
        "systems": [
            _system(system, [row for row in rows if row["system"] == system.name], coded, i, lags_s[i])
            for i, system in enumerate(systems)
        ],
        "rows": rows,
        "failures": failures,
        "unavailable": unavailable,
    }


def _row(item: Item, system: System, file: CodedFile, index: int, found: Scored, save_audio: bool) -> dict[str, Any]:
    made = file.made[index]
    coded = made.coded
    assert coded is not None
    stream_s = file.duration_s * file.channels
    return {
        "file": item.name,
        "system": system.name,
        "duration_s": file.duration_s,
        "sample_rate_hz": file.sample_rate_hz,
        "channels": file.channels,
        "natural_audio": f"natural/{item.name}.flac" if save_audio else None,
        "decoded_audio": f"decoded/{system.name}/{item.name}.flac" if save_audio else None,
        "payload_bits": coded.payload_bits,
        "file_bytes": coded.file_bytes,
        "payload_kbps": _over(coded.payload_bits, 1000 * stream_s),
        "file_kbps": None if coded.file_bytes is None else coded.file_bytes / stream_s / 125,
        "encode_rtf": _over(coded.encode_s, file.duration_s),
        "decode_rtf": _over(coded.decode_s, file.duration_s),
        "clipped": coded.clipped,
        "lag_ms": None if made.lag_s is None else 1000 * made.lag_s,
        "raw": found.raw,
        "compensated": found.compensated,
    }


def _system(
    system: System, rows: Sequence[Mapping[str, Any]], coded: Sequence[CodedFile], index: int, lag_s: float
) -> dict[str, Any]:
    seconds = sum(row["duration_s"] for row in rows)
    stream_s = sum(row["duration_s"] * row["channels"] for row in rows)
    counts = [made.coded.counts for file in coded if file.made and (made := file.made[index]).coded is not None]
    known = [c for c in counts if c is not None]
    bits, size = _total(rows, "payload_bits"), _total(rows, "file_bytes")
    frame_rate = getattr(system, "frame_rate_hz", None)
    encode_s = [row["encode_rtf"] * row["duration_s"] for row in rows if row["encode_rtf"] is not None]
    decode_s = [row["decode_rtf"] * row["duration_s"] for row in rows if row["decode_rtf"] is not None]
    return {
        "name": system.name,
        "kind": system.kind,
        "model": getattr(system, "model", None),
        "codebooks": getattr(system, "codebooks", None),
        "target_kbps": getattr(system, "kbps", None),
        "files": len(rows),
        "duration_s": seconds,
        "payload_kbps": _over(bits, 1000 * stream_s),
        "file_kbps": _over(size, 125 * stream_s),
        "encode_rtf": _over(sum(encode_s) if encode_s else None, seconds),
        "decode_rtf": _over(sum(decode_s) if decode_s else None, seconds),
        "lag_ms": 1000 * lag_s,
        "lag_bound_ms": 1000 * system.lag_bound_s,
        "codebook_use": codebook_use(sum(known[1:], known[0]), frame_rate) if known and frame_rate else None,
        **{
            alignment: {
                metric.name: mean_with_interval(
                    [r[alignment][metric.name] for r in rows if metric.name in r[alignment]]
                )
                for metric in METRICS
            }
            for alignment in ALIGNMENTS
        },
    }


def _settings() -> dict[str, Any]:
    """What the figures depend on beside files and systems."""
    return {
        "bootstrap_resamples": RESAMPLES,
        "bootstrap_seed": SEED,
        "confidence": CONFIDENCE,
        "f0_search_hz": [voice.F0_FLOOR_HZ, voice.F0_CEILING_HZ],
        "world_frame_ms": voice.FRAME_MS,
        "cepstrum_order": voice.CEPSTRUM_ORDER,
        "si_sdr_bound_db": scores.SI_SDR_BOUND_DB,
        "opus_tolerance": opus.TOLERANCE,
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "libsndfile": soundfile.__libsndfile_version__}
    for package in ("jax", "numpy", "soundfile", "soxr", "pesq", "pystoi", "pyworld", "visqol-python"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _total(rows: Sequence[Mapping[str, Any]], name: str) -> int | None:
    known = [row[name] for row in rows if row[name] is not None]
    return sum(known) if known and len(known) == len(rows) else None


def _over(value: float | None, divisor: float) -> float | None:
    return value / divisor if value is not None and divisor else None
