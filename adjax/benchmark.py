"""How fast a codec is on this machine: latency per buffer, streams together, and the floor that arithmetic sets."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from adjax.config import ModelConfig
from adjax.streaming import Codec

BUFFERS_MS = (12.5, 25.0, 50.0, 100.0)
MATRIX = 768  # rows and columns of the products that measure the machine's rate


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


T = TypeVar("T", Latency, Throughput)


def facts() -> dict[str, Any]:
    """The machine and the settings that a figure depends on."""
    try:
        threads = len(os.sched_getaffinity(0))
    except AttributeError:
        threads = os.cpu_count() or 1
    device = jax.devices()[0]
    return {"device": device.device_kind, "platform": device.platform, "threads": threads, "jax": jax.__version__}


def matrix_rate(repeats: int = 20) -> float:
    """Floating-point operations per second of float32 matrix products, the best of some: what a layer can reach."""
    product = jax.jit(lambda a, b: jnp.dot(a, b, precision=jax.lax.Precision.HIGHEST))
    a = jnp.ones((MATRIX, MATRIX))
    times = _times(lambda: product(a, a).block_until_ready(), repeats)
    return 2 * MATRIX**3 / times.min()


def operations(codec: Codec, part: str, frames: int) -> float:
    """Floating-point operations of a step, 2 for each product and sum of its convolutions and matrix products."""
    plain = Codec(codec.config, _zeros(codec.config), kernels=False)
    state = plain.init_encoder(1) if part == "encode" else plain.init_decoder(1)
    step = plain.pure_step("encode" if part == "encode" else "decode")
    jaxpr = jax.make_jaxpr(step)(plain.tree, state, _chunk(plain, part, 1, frames))
    return _count(jaxpr.jaxpr)


def latency(codec: Codec, part: str, buffer_ms: float, repeats: int, rate: float) -> Latency | None:
    """Times of single buffers; None where the buffer is not a whole number of hops."""
    frames = buffer_ms / 1000 * codec.config.frame_rate_hz
    if abs(frames - round(frames)) > 1e-6:
        return None
    step = _stepper(codec, part, 1, round(frames))
    ms = 1000 * _times(step, repeats)
    floor = 1000 * operations(codec, part, round(frames)) / rate
    p50, p95, p99 = (float(p) for p in np.percentile(ms, (50, 95, 99)))
    return Latency(part, buffer_ms, p50, p95, p99, floor)


def throughput(codec: Codec, part: str, streams: int, frames: int, repeats: int) -> Throughput:
    """Streams in one batch against single streams, alternating."""
    together, alone = _stepper(codec, part, streams, frames), _stepper(codec, part, 1, frames)
    both = np.array([(_time(together), sum(_time(alone) for _ in range(4)) / 4) for _ in range(repeats)])
    seconds = frames / codec.config.frame_rate_hz
    medians = np.median(both, axis=0)
    return Throughput(part, streams, streams * seconds / medians[0], seconds / medians[1])


def named(row: T, part: str) -> T:
    """The same row under another name of its part."""
    return replace(row, part=part)


def as_json(rows: list[Latency] | list[Throughput]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]


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


def _times(call: Callable[[], Any], repeats: int) -> np.ndarray:
    return np.array([_time(call) for _ in range(repeats)])


def _time(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def random_variables(config: ModelConfig) -> dict[str, Any]:
    """Uniform weights within 1/sqrt(fan_in), by numpy: speed does not depend on what a model has learnt."""
    from adjax import weights
    from adjax.models import codec

    rng = np.random.default_rng(0)
    flat = {}
    for name, leaf in weights.flatten(jax.eval_shape(lambda: codec.init(config, jax.random.key(0)))).items():
        if name.endswith(("/g", "scale", "sigma")):
            flat[name] = np.ones(leaf.shape, np.float32)
        else:
            bound = 1.0 if "codebook" in name else float(np.prod(leaf.shape[:-1]) or 1) ** -0.5
            flat[name] = rng.uniform(-bound, bound, leaf.shape).astype(np.float32)
    return weights.unflatten(flat)


def _zeros(config: ModelConfig) -> dict[str, Any]:
    from adjax.models import codec

    shapes = jax.eval_shape(lambda: codec.init(config, jax.random.key(0)))
    return jax.tree.map(lambda leaf: np.broadcast_to(np.float32(1), leaf.shape), shapes)


def _count(jaxpr: Any) -> float:
    """2 * products of the convolutions and matrix products of a program, loops counted."""
    total = 0.0
    for equation in jaxpr.eqns:
        out = equation.outvars[0].aval
        if equation.primitive.name == "conv_general_dilated":
            kernel, spec = equation.invars[1].aval.shape, equation.params["dimension_numbers"].rhs_spec
            total += 2.0 * float(np.prod(out.shape)) * float(np.prod(kernel)) / kernel[spec[0]]
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2.0 * float(np.prod(out.shape)) * float(np.prod([shape[i] for i in contracted]))
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")
        ):
            if hasattr(inner, "jaxpr"):
                total += times * _count(inner.jaxpr)
            elif hasattr(inner, "eqns"):
                total += times * _count(inner)
    return total


__all__ = [
    "BUFFERS_MS",
    "Latency",
    "Throughput",
    "as_json",
    "facts",
    "latency",
    "matrix_rate",
    "named",
    "operations",
    "random_variables",
    "throughput",
]
