"""Spans of sources at any sample rate, of files and prepared sets alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import soundfile
import soxr

from adjax.train.data.prepared import Damaged
from adjax.train.data.sources import Source

RESAMPLER_MARGIN_SAMPLES = 128  # at the lower of the two rates: a resampled span then equals the resampled file to 2e-7
UNREADABLE = (soundfile.LibsndfileError, OSError, Damaged)  # what reading a span may raise


def hold(sources: Sequence[Source]) -> list[Source]:
    """The sources with all their samples in memory, noisy versions too: spans of them are the same, but read no more.

    16-bit audio takes 2 bytes a sample, other audio 4. What cannot be read stays as it is, for `read_span` to tell.
    """

    def held(source: Source) -> Source:
        noisy = source.noisy and held(source.noisy)
        try:
            return replace(source, noisy=noisy, held=_read_samples(source, 0, source.frames))
        except UNREADABLE:
            return replace(source, noisy=noisy)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(held, sources))


def finite_span(source: Source, start: int, samples: int, sample_rate_hz: int, channel: int | None) -> np.ndarray:
    """As `read_span`, of one channel or of all (None), and certain to be numbers."""
    audio = read_span(source, start, samples, sample_rate_hz)
    if not np.isfinite(audio).all():
        raise Damaged("it holds samples that are not finite")
    return audio if channel is None else audio[:, channel : channel + 1]


def read_span(source: Source, start: int, samples: int, sample_rate_hz: int) -> np.ndarray:
    """`samples` samples from `start` on, both counted at `sample_rate_hz`: float32[samples, channels of the file]."""
    rate = source.played_rate_hz
    if rate == sample_rate_hz:
        return _read_frames(source, start, samples)
    common = math.gcd(rate, sample_rate_hz)
    up, down = sample_rate_hz // common, rate // common
    # Read from a multiple of `down` frames, which falls on a whole output sample: the resampler's phase is then exact.
    margin = math.ceil(RESAMPLER_MARGIN_SAMPLES * max(1.0, sample_rate_hz / rate) / up)
    first = max(start // up - margin, 0)
    last = math.ceil((start + samples) / up) + margin
    frames = min(last * down, source.frames) - first * down
    audio = soxr.resample(_read_frames(source, first * down, frames), rate, sample_rate_hz)
    return audio[start - first * up :][:samples]


def _read_frames(source: Source, start: int, frames: int) -> np.ndarray:
    held = source.held
    audio = _read_samples(source, start, frames) if held is None else held[start : start + frames]
    return audio.astype(np.float32) / np.float32(32768) if audio.dtype == np.int16 else audio


def _read_samples(source: Source, start: int, frames: int) -> np.ndarray:
    """Samples as they are stored, int16[frames, channels], or float32 where they are not of 16 bits."""
    if source.records is not None:
        pcm = source.records.read(source.first_record, start, frames)
        if pcm.shape[1] != source.channels:
            raise Damaged("its channel count is not what the index promised")
        return pcm
    with soundfile.SoundFile(source.path) as file:
        if (file.samplerate, file.channels) != (source.sample_rate_hz, source.channels):
            raise Damaged("its sample rate or channel count is no longer what it was")
        file.seek(start)
        audio = file.read(frames, dtype="int16" if file.subtype == "PCM_16" else "float32", always_2d=True)
    if len(audio) != frames:
        raise Damaged(f"it ends before frame {start + frames}, though its header promised {source.frames} frames")
    return audio
