"""What watches a run's metrics: means for the log, a stop at what is not finite, alarms at what lasts too long."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import jax

from adjax.config import Discriminators, TrainConfig
from adjax.config.training import Alarm
from adjax.errors import AdjaxError
from adjax.train.checkpoints import Checkpoints
from adjax.train.logs import Logs
from adjax.train.state import learning_rates

METRIC_LOSSES = (  # those that fall as decoded audio nears natural audio, and are never negative
    "mel_loss",
    "spectral_convergence_loss",
    "log_stft_magnitude_loss",
    "shape_loss",
    "spectral_loss",
    "complex_loss",
    "magnitude_loss",
)
SMOOTHING_STEPS = 200  # over which levels are averaged; nothing is compared with a level before so many steps
PATIENCE_STEPS = 1000  # for so long a condition must hold before its alarm, and be over before the next
RISEN = 2.0  # a metric loss at this multiple of its lowest level diverges ...
FALLEN = 1.5  # ... and below this one does so no more
EXPLODED = 100.0  # a gradient norm at this multiple of its level explodes
EXPLODED_STEPS = 20  # patience there: single large gradients are common, and Adam bounds what they do
WON_SHARE = 0.02  # discriminators have won outright below this share of the loss that guessing gives
COLLAPSED_SHARE = 0.1  # a codebook with fewer of its codes in use than this has collapsed

_log = logging.getLogger(__name__)


class Monitor:
    """Reads a step's metrics once the next is under way; logs their means and stops on what is not finite."""

    def __init__(self, config: TrainConfig, logs: Logs, checkpoints: Checkpoints) -> None:
        self._config, self._logs, self._checkpoints = config, logs, checkpoints
        self._rates = learning_rates(config)
        self._guards = Guards(config)
        self._pending: tuple[int, Callable[[], Any]] | None = None
        self._values: dict[str, list[float]] = {}
        self._steps, self._since = 0, time.perf_counter()

    def after(self, step: int, metrics: Callable[[], Any]) -> None:
        """Take in the metrics of the step before, and keep those of this one for later."""
        self.flush()
        self._pending = (step, metrics)

    def flush(self) -> None:
        """Take the pending metrics in; raises AdjaxError if one is not finite or `config.stop_on` names its alarm."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        values = {name: float(value) for name, value in metrics().items()}
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            self._logs.scalars(step, values)
            raise self._stopped(f"{bad[0]} is {values[bad[0]]} at step {step}")
        for name, value in values.items():
            self._values.setdefault(name, []).append(value)
        self._steps += 1
        for alarm, message in self._guards.after(values):
            if alarm in self._config.stop_on:
                self._logs.scalars(step, values)
                raise self._stopped(f"{message} (step {step}; stop_on has {alarm})")
            if jax.process_index() == 0:  # all hosts see the same metrics
                _log.warning("%s (step %d)", message, step)
        if step % self._config.log_every == 0:
            self._write(step)

    def _stopped(self, why: str) -> AdjaxError:
        kept = self._checkpoints.latest_step()
        where = "no checkpoint was written yet" if kept is None else f"the checkpoint of step {kept} is kept"
        return AdjaxError(f"training stopped: {why}; {where}")

    def _write(self, step: int) -> None:
        now = time.perf_counter()
        means = {f"train/{name}": math.fsum(values) / len(values) for name, values in self._values.items()}
        adversarial, (rate, other) = self._config.adversarial, self._rates
        if step > self._config.generator_start_step:
            means["learning_rate"] = float(cast(jax.Array, rate(step - 1 - self._config.generator_start_step)))
        if adversarial and other and step > adversarial.start_step:
            means["discriminator_learning_rate"] = float(cast(jax.Array, other(step - 1 - adversarial.start_step)))
        means["steps_per_second"] = self._steps / (now - self._since)
        self._logs.scalars(step, means)
        self._values, self._steps, self._since = {}, 0, now


@dataclass
class Lasting:
    """An alarm that goes off once a condition has held for `patience` steps.

    It is armed again when the condition has been over for `patience` steps; a step between the two counts for neither.
    """

    patience: int
    held: int = 0
    armed: bool = True

    def after(self, holds: bool, over: bool) -> bool:
        """Whether it goes off at a step at which the condition holds, or is clearly over."""
        self.held = self.held + 1 if (holds if self.armed else over) else 0
        if self.held < self.patience:
            return False
        self.armed, self.held = not self.armed, 0
        return not self.armed


@dataclass
class Level:
    """An exponential average over about SMOOTHING_STEPS, and the lowest that it has been since it was that long."""

    value: float = 0.0
    steps: int = 0
    lowest: float = math.inf

    def after(self, value: float) -> None:
        """Take in a step's value."""
        self.steps += 1
        self.value += (value - self.value) / min(self.steps, SMOOTHING_STEPS)
        if self.known:
            self.lowest = min(self.lowest, self.value)

    @property
    def known(self) -> bool:
        """Whether it stands for enough steps to be compared with."""
        return self.steps >= SMOOTHING_STEPS


@dataclass
class Guards:
    """Alarms of a run, each with a message for a reader; levels start afresh where a phase changes the metrics."""

    config: TrainConfig
    names: frozenset[str] = frozenset()
    levels: dict[str, Level] = field(default_factory=dict)
    alarms: dict[str, Lasting] = field(default_factory=dict)

    def after(self, values: Mapping[str, float]) -> list[tuple[Alarm, str]]:
        """The alarms that go off at a step with these metrics."""
        if self.names != values.keys():
            self.names = frozenset(values)
            self.levels.clear()
        return [*self._divergence(values), *self._gradients(values), *self._winners(values), *self._codebooks(values)]

    def _lasting(self, name: str, patience: int, holds: bool, over: bool) -> bool:
        return self.alarms.setdefault(name, Lasting(patience)).after(holds, over)

    def _divergence(self, values: Mapping[str, float]) -> Iterator[tuple[Alarm, str]]:
        for name in self.names.intersection(METRIC_LOSSES):
            level = self.levels.setdefault(name, Level())
            level.after(values[name])
            risen, lowest = level.value / max(level.lowest, 1e-12), level.lowest
            if self._lasting(name, PATIENCE_STEPS, level.known and risen > RISEN, risen < FALLEN):
                yield "divergence", f"{name} has been at {level.value:.4g}, {risen:.1f} times its lowest, {lowest:.4g}"

    def _gradients(self, values: Mapping[str, float]) -> Iterator[tuple[Alarm, str]]:
        for name in self.names.intersection(("gradient_norm", "discriminator_gradient_norm")):
            level, norm = self.levels.setdefault(name, Level()), values[name]
            exploded = level.known and norm > EXPLODED * level.value
            if not exploded:  # so that an explosion is not the level of the next
                level.after(norm)
            if self._lasting(name, EXPLODED_STEPS, exploded, not exploded):
                yield "gradient", f"{name} has been {norm:.4g}, far above its level {level.value:.4g}"

    def _winners(self, values: Mapping[str, float]) -> Iterator[tuple[Alarm, str]]:
        adversarial, loss = self.config.adversarial, values.get("discriminator_loss")
        if adversarial is None or loss is None:
            return
        count = 1 if adversarial.average_by_discriminators else count_discriminators(adversarial.discriminators)
        share = loss / (count * (0.5 if adversarial.loss == "mse" else 2.0))
        if self._lasting("discriminators", PATIENCE_STEPS, share < WON_SHARE, share > 2 * WON_SHARE):
            yield (
                "discriminators",
                f"the discriminators have won: their loss has been {loss:.4g}, {100 * share:.1g} % of what guessing "
                "gives, so that they teach the generator nothing; lower adversarial.optimizer.learning_rate",
            )

    def _codebooks(self, values: Mapping[str, float]) -> Iterator[tuple[Alarm, str]]:
        size = self.config.model.quantizer.codebook_size
        for name in sorted(n for n in self.names if n.startswith("codes_used_")):
            used, stage = values[name], name.rpartition("_")[2]
            share = used / size
            if self._lasting(name, PATIENCE_STEPS, share < COLLAPSED_SHARE, share > 2 * COLLAPSED_SHARE):
                yield "codebooks", f"codebook {stage} has collapsed: {used:.0f} of {size} codes in use"


def count_discriminators(config: Discriminators) -> int:
    """The number of sub-discriminators, each of which adds its scores to the losses."""
    return (
        (config.scale.scales if config.scale else 0)
        + (len(config.resolution.fft_sizes) if config.resolution else 0)
        + (1 if config.stft else 0)
        + (len(config.period.periods) if config.period else 0)
    )
