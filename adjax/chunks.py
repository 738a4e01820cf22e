"""A codec over signals of any length in constant memory: chunks of one fixed shape, compiled once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from adjax.audio import rechunk
from adjax.streaming import Codec

PARTS = 4  # a call scans over so many steps: fewer calls than of the steps alone, less memory than of a step that long


@dataclass
class Times:
    """Seconds of computation for some audio, the first call with its compilation kept apart."""

    audio_s: float = 0.0
    compute_s: float = 0.0
    compile_s: float = 0.0  # 0 for models that are not causal: one call does all, and its compilation counts

    @property
    def real_time_factor(self) -> float:
        """Seconds of computation per second of audio, all channels together."""
        return self.compute_s / self.audio_s

    @contextmanager
    def measure(self, compiling: bool = False) -> Iterator[None]:
        start = time.perf_counter()
        yield
        passed = time.perf_counter() - start
        if compiling:
            self.compile_s += passed
        else:
            self.compute_s += passed


def encoded(
    codec: Codec, blocks: Iterable[np.ndarray], streams: int, times: Times, codebooks: int | None = None
) -> Iterator[np.ndarray]:
    """Yields codes int32[streams, frames, codebooks] of float32[samples, channels] blocks, whole hops in all.

    The codes are those of the whole signal. Models that are not causal code it in one piece, so that memory grows
    with its length. Adds to `times`.
    """
    hop = codec.hop_length
    if not codec.config.encoder.causal:
        whole = _to_streams(np.concatenate(list(blocks)), streams)
        with times.measure():
            codes = np.asarray(codec.encode(whole, codebooks))
        yield codes
        return
    frames = chunk_frames(codec, streams)
    size = frames * hop
    silence = np.zeros((streams, size, codec.audio_channels), np.float32)
    with times.measure(compiling=True):
        np.asarray(codec.encode_scan(codec.init_encoder(streams), silence, frames // PARTS, codebooks)[1])
        state = codec.init_encoder(streams)
    for block in rechunk(blocks, size):
        chunk = silence.copy()  # the last chunk is as long as the others, so that nothing is compiled for it
        chunk[:, : len(block)] = _to_streams(block, streams)
        with times.measure():
            state, codes = codec.encode_scan(state, chunk, frames // PARTS, codebooks)
            codes = np.asarray(codes)
        yield codes[:, : len(block) // hop]


def decoded(
    codec: Codec, rows: Iterable[np.ndarray], streams: int, codebooks: int, times: Times
) -> Iterator[np.ndarray]:
    """Yields float32[samples, channels] of codes as int32[frames, streams * codebooks] blocks; see `encoded`."""
    if not codec.config.encoder.causal:
        parts = list(rows)
        if parts:
            codes = _to_streams(np.concatenate(parts), streams)
            with times.measure():
                sound = np.array(codec.decode(codes))
            yield _to_rows(sound)
        return
    size = chunk_frames(codec, streams)
    nothing = np.zeros((streams, size, codebooks), np.int32)
    with times.measure(compiling=True):
        np.asarray(codec.decode_scan(codec.init_decoder(streams), nothing, size // PARTS)[1])
        state = codec.init_decoder(streams)
    for block in rechunk(rows, size):
        codes = nothing.copy()
        codes[:, : len(block)] = _to_streams(block, streams)
        with times.measure():
            state, sound = codec.decode_scan(state, codes, size // PARTS)
            sound = np.array(sound)
        yield _to_rows(sound)[: len(block) * codec.hop_length]


def chunk_frames(codec: Codec, streams: int) -> int:
    """Frames coded in one call: a second of one stream, less of several, so that memory does not grow with them."""
    return PARTS * max(1, round(codec.sample_rate / codec.hop_length / streams / PARTS))


def _to_streams(rows: np.ndarray, streams: int) -> np.ndarray:
    """[time, streams * values] to [streams, time, values]."""
    return np.moveaxis(rows.reshape(len(rows), streams, -1), 1, 0)


def _to_rows(x: np.ndarray) -> np.ndarray:
    """[streams, time, values] to [time, streams * values]."""
    return np.moveaxis(x, 0, 1).reshape(x.shape[1], -1)
