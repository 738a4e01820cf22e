"""How fast a codec streams: latency of a buffer, and streams together against one after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from adjax.benchmark.clock import seconds, times
from adjax.benchmark.floor import count_operations
from adjax.benchmark.weights import empty_variables
from adjax.streaming import Codec

BUFFERS_MS = (12.5, 25.0, 50.0, 100.0)


@dataclass(frozen=True)
class Latency:
    """Milliseconds that one buffer takes in one part of a codec, array in to array out."""

    part: str
    buffer_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    floor_ms: float  # operations over the rate of matrix products measured in the same run

    def row(self) -> list[str]:
        times = (self.p50_ms, self.p95_ms, self.p99_ms, self.floor_ms)
        return [self.part, f"{self.buffer_ms:g}", *(f"{t:.2f}" for t in times)]


@dataclass(frozen=True)
class Throughput:
    """Seconds of audio per second of computation for streams that share a batch, and for one after another."""

    part: str
    streams: int
    together: float
    alone: float

    def row(self) -> list[str]:
        return [
            self.part,
            str(self.streams),
            f"{self.together:.2f}",
            f"{self.alone:.2f}",
            f"{self.together / self.alone:.1f}",
        ]


@dataclass(frozen=True)
class Duplex:
    """Streams that are encoded and decoded in real time, all in one batch, with the times of a buffer of all."""

    part: str
    buffer_ms: float
    streams: int  # the most whose 99th percentile is under the buffer's length, to a sixteenth; 0: not even one
    p50_ms: float
    p99_ms: float

    def row(self) -> list[str]:
        return [self.part, f"{self.buffer_ms:g}", str(self.streams), f"{self.p50_ms:.2f}", f"{self.p99_ms:.2f}"]


T = TypeVar("T", Latency, Throughput, Duplex)


def operations(codec: Codec, part: str, frames: int) -> float:
    """Floating-point operations of a step, 2 for each product and sum of its convolutions and matrix products."""
    plain = Codec(codec.config, empty_variables(codec.config), kernels=False)
    state = plain.init_encoder(1) if part == "encode" else plain.init_decoder(1)
    step = plain.pure_step("encode" if part == "encode" else "decode")
    jaxpr = jax.make_jaxpr(step)(plain.tree, state, _chunk(plain, part, 1, frames))
    return count_operations(jaxpr.jaxpr)


def latency(codec: Codec, part: str, buffer_ms: float, repeats: int, rate: float) -> Latency | None:
    """Times of single buffers; None where the buffer is not a whole number of hops."""
    frames = buffer_ms / 1000 * codec.config.frame_rate_hz
    if abs(frames - round(frames)) > 1e-6:
        return None
    step = _stepper(codec, part, 1, round(frames))
    ms = 1000 * times(step, repeats)
    floor = 1000 * operations(codec, part, round(frames)) / rate
    p50, p95, p99 = (float(p) for p in np.percentile(ms, (50, 95, 99)))
    return Latency(part, buffer_ms, p50, p95, p99, floor)


def throughput(codec: Codec, part: str, streams: int, frames: int, repeats: int) -> Throughput:
    """Streams in one batch against single streams, alternating."""
    together, alone = _stepper(codec, part, streams, frames), _stepper(codec, part, 1, frames)
    both = np.array([(seconds(together), sum(seconds(alone) for _ in range(4)) / 4) for _ in range(repeats)])
    audio_s = frames / codec.config.frame_rate_hz
    medians = np.median(both, axis=0)
    return Throughput(part, streams, streams * audio_s / medians[0], audio_s / medians[1])


def duplex(codec: Codec, buffer_ms: float, repeats: int) -> Duplex:
    """The most full-duplex streams in real time, found by doubling and bisection; buffers are whole hops at least."""
    frames = max(1, round(buffer_ms / 1000 * codec.config.frame_rate_hz))
    buffer_ms = 1000 * frames / codec.config.frame_rate_hz

    def measured(streams: int) -> Duplex:
        parts = [_stepper(codec, part, streams, frames) for part in ("encode", "decode")]
        p50, p99 = np.percentile(1000 * times(lambda: [part() for part in parts], repeats), (50, 99))
        return Duplex(codec.config.name, buffer_ms, streams, float(p50), float(p99))

    tried = measured(1)
    if tried.p99_ms >= buffer_ms:
        return replace(tried, streams=0)
    best, failed = tried, 0
    while not failed or failed - best.streams > max(1, best.streams // 16):
        tried = measured((best.streams + failed) // 2 if failed else 2 * best.streams)
        if tried.p99_ms < buffer_ms:
            best = tried
        else:
            failed = tried.streams
    return best


def named(row: T, part: str) -> T:
    """The same row under another name of its part."""
    return replace(row, part=part)


def _stepper(codec: Codec, part: str, streams: int, frames: int) -> Callable[[], Any]:
    """A call that feeds one buffer from host memory and brings the result back, state kept; compiled already."""
    encode = part == "encode"
    state = [codec.init_encoder(streams) if encode else codec.init_decoder(streams)]
    step, chunk = codec.encode_step if encode else codec.decode_step, np.asarray(_chunk(codec, part, streams, frames))

    def call() -> np.ndarray:
        state[0], result = step(state[0], chunk)
        return np.asarray(result)

    for _ in range(3):
        call()
    return call


def _chunk(codec: Codec, part: str, streams: int, frames: int) -> jax.Array:
    rng = np.random.default_rng(0)
    if part == "encode":
        samples = rng.standard_normal((streams, frames * codec.hop_length, codec.audio_channels))
        return jnp.asarray(0.1 * samples, jnp.float32)
    return jnp.asarray(rng.integers(0, codec.codebook_size, (streams, frames, codec.num_codebooks)), jnp.int32)
