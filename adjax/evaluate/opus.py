"""Opus through libsndfile, at a bitrate that is found by trial: what its packets hold, not what was asked for."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from adjax.errors import AdjaxError

RATES_HZ = (8000, 12000, 16000, 24000, 48000)  # other rates are resampled to the last
FRAME_S = 0.02
LOWEST_KBPS, HIGHEST_KBPS = 6.0, 256.0  # per channel: libsndfile's compression levels 1 and 0
TOLERANCE = 0.05  # of the bitrate, within which a file counts as coded at it
_CLOSE_ENOUGH, _TRIALS = 0.01, 8


class UnavailableError(AdjaxError):
    """A bitrate that Opus through libsndfile does not give for a file."""


@dataclass(frozen=True)
class OpusFile:
    """What was spent on a file; the payload is the audio packets, without Ogg's pages and headers."""

    payload_bits: int
    encode_s: float


def encode(target: Path, audio: np.ndarray, sample_rate_hz: int, kbps: float) -> OpusFile:
    """Writes float32[samples, channels] as Ogg Opus whose packets come nearest to `kbps` for each channel.

    Variable bitrate, full complexity, frames of 20 ms: libsndfile's settings. Raises UnavailableError where the
    nearest is off by more than TOLERANCE.
    """
    rate = sample_rate_hz if sample_rate_hz in RATES_HZ else RATES_HZ[-1]
    duration_s, channels = len(audio) / sample_rate_hz, audio.shape[1]
    audio = soxr.resample(audio, sample_rate_hz, rate)
    asked = float(np.clip(kbps, LOWEST_KBPS, HIGHEST_KBPS))
    below, above = LOWEST_KBPS, HIGHEST_KBPS
    best: tuple[float, float] | None = None  # how far off, and what was asked for
    got = 0.0
    for _ in range(_TRIALS):
        made = _write(target, audio, rate, asked)
        got = made.payload_bits / duration_s / channels / 1000
        off = abs(got / kbps - 1)
        if best is None or off < best[0]:
            best = off, asked
        if off <= _CLOSE_ENOUGH or above - below < 1e-3:
            break
        below, above = (asked, above) if got < kbps else (below, asked)
        guess = asked * kbps / got if got else above
        asked = guess if below < guess < above else (below + above) / 2
    assert best is not None
    if best[0] > TOLERANCE:
        nearest = _write(target, audio, rate, best[1]).payload_bits / duration_s / channels / 1000
        raise UnavailableError(f"Opus through libsndfile gives {nearest:.1f} kbps at the nearest, not {kbps:g}")
    return _write(target, audio, rate, best[1])


def decode(source: Path, sample_rate_hz: int, samples: int) -> tuple[np.ndarray, float]:
    """Audio float32[samples, channels] of an Ogg Opus file at another rate, and the seconds that decoding took."""
    start = time.perf_counter()
    audio, rate = soundfile.read(source, dtype="float32", always_2d=True)
    passed = time.perf_counter() - start
    audio = soxr.resample(audio, rate, sample_rate_hz)[:samples]
    return np.pad(audio, ((0, samples - len(audio)), (0, 0))), passed


def packet_bytes(ogg: bytes) -> int:
    """Bytes of all packets but Opus's two headers in an Ogg stream. Source: RFC 3533 section 6, RFC 7845 section 3."""
    position, total, headers = 0, 0, 2
    while position < len(ogg):
        if ogg[position : position + 4] != b"OggS":
            raise AdjaxError(f"not an Ogg page at byte {position}")
        segments = ogg[position + 27 : position + 27 + ogg[position + 26]]
        for size in segments:
            if headers:
                headers -= size < 255  # a packet ends at the first segment that is not full
            else:
                total += size
        position += 27 + len(segments) + sum(segments)
    return total


def _write(target: Path, audio: np.ndarray, rate: int, kbps: float) -> OpusFile:
    level = (HIGHEST_KBPS - kbps) / (HIGHEST_KBPS - LOWEST_KBPS)
    start = time.perf_counter()
    with soundfile.SoundFile(target, "w", rate, audio.shape[1], "OPUS", format="OGG", compression_level=level) as file:
        file.write(audio)
    passed = time.perf_counter() - start
    return OpusFile(8 * packet_bytes(target.read_bytes()), passed)
