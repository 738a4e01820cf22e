"""How fast a configuration trains: whole steps on synthetic audio that lies on the device."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from adjax.benchmark.clock import seconds
from adjax.benchmark.floor import count_operations
from adjax.benchmark.weights import random_variables, random_weights
from adjax.config import TrainConfig
from adjax.errors import AdjaxError
from adjax.models.discriminators import Discriminators
from adjax.nn.quantize import CODEBOOK, Codebooks
from adjax.train import parallel
from adjax.train.state import Optimizers, TrainState, from_variables, make_optimizers
from adjax.train.steps import Phase, make_step

PhaseName = Literal["metric", "adversarial"]
WARM_STEPS = 2


@dataclass(frozen=True)
class Training:
    """Speed and memory of the steps of one phase of a configuration."""

    model: str
    phase: PhaseName
    batch: int  # crops over all devices
    crop_samples: int
    precision: str
    steps: int  # timed
    steps_per_second: float  # of the median step
    p10_s: float  # seconds that a step takes
    p50_s: float
    p90_s: float
    audio_per_second: float  # seconds of crops a second
    floor_s: float  # operations over the rate of matrix products measured in the same run
    compile_s: float
    temporary_gb: float  # that the compiled step takes beside its arguments, of each device
    state_gb: float  # of one device's arguments
    peak_gb: float  # of the process, or of the device where it keeps count

    def row(self) -> list[str]:
        numbers = (self.p50_s, self.p10_s, self.p90_s, self.steps_per_second, self.audio_per_second, self.floor_s)
        sizes = (self.temporary_gb, self.state_gb, self.peak_gb)
        return [
            f"{self.model} {self.phase}",
            f"{self.batch} x {self.crop_samples}",
            self.precision,
            *(f"{n:.3g}" for n in numbers),
            f"{self.compile_s:.1f}",
            *(f"{n:.2f}" for n in sizes),
        ]


class Run:
    """A compiled step and the state that it moves."""

    def __init__(self, config: TrainConfig, name: PhaseName, state: TrainState, batch: Any) -> None:
        optimizers, phase = make_optimizers(config), training_phase(config, name)
        backend = parallel.backend(lambda axis: make_step(config, optimizers, axis, phase), config.parallel)
        jaxpr = jax.make_jaxpr(make_step(config, optimizers, None, phase))(state, batch)
        self.operations = count_operations(jaxpr.jaxpr)
        self._state, self._batch, self._get = backend.put_state(state), backend.put_batch(batch), backend.get
        start = time.perf_counter()
        self._step = backend.step.lower(self._state, self._batch).compile()  # type: ignore[attr-defined]
        self.compile_s = time.perf_counter() - start
        self.memory = self._step.memory_analysis()

    def step(self) -> dict[str, jax.Array]:
        """Makes a step and gives its metrics once the whole state is there."""
        self._state, metrics = self._step(self._state, self._batch)
        return jax.block_until_ready((self._state, self._get(metrics)))[1]


def training_phase(config: TrainConfig, name: PhaseName) -> Phase:
    """The phase of a configuration's steps before or after its adversarial start, once all parts are under way.

    Raises AdjaxError for the adversarial phase of a configuration that has none.
    """
    if name == "metric":
        return Phase(config.trained)
    if config.adversarial is None:
        raise AdjaxError(f"--phase adversarial: the configuration of {config.model.name} has no adversarial phase")
    return Phase(config.adversarial.trained, adversarial=True)


def random_state(config: TrainConfig, optimizers: Optimizers) -> TrainState:
    """A state with random weights and codebooks in use, without compiling any initialiser."""
    generator, discriminators = random_variables(config.model), None
    embed = jnp.asarray(generator[CODEBOOK]["quantizer"]["embed"])
    books = Codebooks(embed, 2 * embed, jnp.full(embed.shape[:2], 2.0))
    generator[CODEBOOK] = {"quantizer": books._asdict()}
    if config.adversarial:
        module, key = Discriminators(config.adversarial.discriminators), jax.random.key(0)
        audio = jnp.zeros((1, config.data.crop_samples - config.model.delay_samples, 1))
        discriminators = random_weights(dict(jax.eval_shape(module.init, key, audio)))
    state = jax.eval_shape(lambda: from_variables(config, generator, discriminators, optimizers))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
    return zeros._replace(
        params=jax.tree.map(jnp.asarray, generator["params"]),
        codebooks=books,
        stats=jax.tree.map(jnp.asarray, generator.get("stats", {})),
        discriminators=jax.tree.map(jnp.asarray, discriminators),
    )


def synthetic_batch(config: TrainConfig) -> Any:
    """Noise of the size of the configuration's batches: a pair where a model hears other audio than it is to give."""
    data = config.data
    shape = (data.batch_size, data.context_samples + data.crop_samples, config.model.audio_channels)
    audio = jnp.asarray(0.1 * np.random.default_rng(0).standard_normal(shape), jnp.float32)
    return (audio, audio) if data.noisy or data.noise else audio


def training(config: TrainConfig, name: PhaseName, steps: int, rate: float) -> Training:
    """Times of single steps, after some that do not count; `rate` in operations per second of one device."""
    if name == "metric":
        config = replace(config, adversarial=None)
    devices = 1 if config.parallel == "jit" else jax.device_count()
    if config.data.batch_size % devices:
        raise AdjaxError(f"--batch {config.data.batch_size}: must be a multiple of the {devices} devices")
    run = Run(config, name, random_state(config, make_optimizers(config)), synthetic_batch(config))
    for _ in range(WARM_STEPS):
        run.step()
    p10, p50, p90 = (float(p) for p in np.percentile([seconds(run.step) for _ in range(steps)], (10, 50, 90)))
    data = config.data
    audio_s = data.batch_size * data.crop_samples / config.model.sample_rate_hz
    return Training(
        model=config.model.name,
        phase=name,
        batch=data.batch_size,
        crop_samples=data.crop_samples,
        precision=config.precision,
        steps=steps,
        steps_per_second=1 / p50,
        p10_s=p10,
        p50_s=p50,
        p90_s=p90,
        audio_per_second=audio_s / p50,
        floor_s=run.operations / rate / devices,
        compile_s=run.compile_s,
        temporary_gb=run.memory.temp_size_in_bytes / 1e9,
        state_gb=run.memory.argument_size_in_bytes / 1e9,
        peak_gb=peak_bytes() / 1e9,
    )


def peak_bytes() -> float:
    """Most memory used so far: by the device's own count, else of the process (0 where the system keeps none)."""
    statistics = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return statistics["peak_bytes_in_use"]
    try:
        import resource
    except ModuleNotFoundError:
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)
