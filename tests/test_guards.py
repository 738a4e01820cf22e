"""Guards: each alarm goes off at what it is for, once, and not at what training does anyway."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from adjax.config import Adversarial, Discriminators, MultiPeriod, TrainConfig
from adjax.errors import AdjaxError
from adjax.train import guards
from adjax.train.guards import Guards, Lasting, Monitor, count_discriminators
from tests.conftest import TINY_CONV

CONFIG = TrainConfig(TINY_CONV, adversarial=Adversarial(discriminators=Discriminators(period=MultiPeriod((2, 3)))))
STEPS = 8000


def alarms(values: Iterable[dict[str, float]], config: TrainConfig = CONFIG) -> list[tuple[int, str]]:
    """Steps at which alarms go off, counted from 0, with their names."""
    watching = Guards(config)
    return [(step, name) for step, metrics in enumerate(values) for name, _ in watching.after(metrics)]


def steps(value: Callable[[int], float], name: str = "mel_loss", count: int = STEPS) -> Iterable[dict[str, float]]:
    return ({name: value(step)} for step in range(count))


def test_an_ordinary_run_is_quiet() -> None:
    """Noisy losses that fall and then rise by half, spiky gradients, codebooks that fill up, an even contest."""
    rng = np.random.default_rng(0)

    def metrics(step: int) -> dict[str, float]:
        level = np.exp(-step / 1000) + 0.3 * (1 + 0.5 * (step > 4000))
        return {
            "mel_loss": float(level * rng.lognormal(0, 0.3)),
            "gradient_norm": float(rng.lognormal(0, 1.0) * (1000 if step % 500 == 499 else 1)),
            "discriminator_loss": float(rng.uniform(0.5, 2.0)),
            "codes_used_0": min(16.0, step / 100),
        }

    assert not alarms(metrics(step) for step in range(STEPS))


def test_divergence_is_reported_once_while_it_lasts() -> None:
    """A loss three times its lowest level, after that lasted; again only when it fell in between."""
    assert not alarms(steps(lambda step: 3.0 if 3000 <= step < 3600 else 1.0))
    ((step, name),) = alarms(steps(lambda step: 3.0 if step >= 3000 else 1.0))
    assert name == "divergence"
    assert 3000 + guards.PATIENCE_STEPS < step < 3000 + guards.PATIENCE_STEPS + guards.SMOOTHING_STEPS
    waves = alarms(steps(lambda step: 3.0 if step // 2000 % 2 else 1.0, count=10000))
    assert [step // 2000 for step, _ in waves] == [1, 3]


def test_another_phase_has_other_levels() -> None:
    """At the adversarial start losses and gradients change their meaning: what was low before says nothing."""
    first = ({"mel_loss": 1.0, "gradient_norm": 1.0} for _ in range(1000))
    then = ({"mel_loss": 9.0, "gradient_norm": 900.0, "discriminator_loss": 1.0} for _ in range(STEPS))
    assert not alarms([*first, *then])


def test_exploding_gradients_are_told_from_spikes() -> None:
    """Twenty steps in a row, each a thousand times the level, which the explosion itself does not raise."""
    ((step, name),) = alarms(steps(lambda step: 1e3 if step >= 1000 else 1.0, "discriminator_gradient_norm"))
    assert (step, name) == (1000 + guards.EXPLODED_STEPS - 1, "gradient")


@pytest.mark.parametrize(("loss", "average", "guess"), [("mse", False, 2.5), ("mse", True, 0.5), ("hinge", False, 10)])
def test_discriminators_that_win_outright(loss: Any, average: bool, guess: float) -> None:
    """Their loss is a small share of what guessing gives, which depends on how many they are and on the loss."""
    adversarial = replace(CONFIG.adversarial, loss=loss, average_by_discriminators=average)  # type: ignore[type-var]
    config = replace(CONFIG, adversarial=adversarial)
    assert count_discriminators(adversarial.discriminators) == 5  # three scales, two periods
    assert not alarms(steps(lambda _: 0.03 * guess, "discriminator_loss"), config)
    ((step, name),) = alarms(steps(lambda _: 0.01 * guess, "discriminator_loss"), config)
    assert (step, name) == (guards.PATIENCE_STEPS - 1, "discriminators")


def test_an_alarm_needs_a_clear_end() -> None:
    """Between holding and being over lies a zone that neither sets it off nor arms it."""
    alarm = Lasting(2)
    seen = [alarm.after(value > 2, value < 1) for value in (3, 1.5, 3, 3, 3, 1.5, 3, 3, 0, 1.5, 0, 0, 3, 3)]
    assert [i for i, gone_off in enumerate(seen) if gone_off] == [3, 13]


class Silent:
    def scalars(self, *_: Any) -> None: ...

    def latest_step(self) -> int:
        return 500


def monitor(config: TrainConfig) -> Monitor:
    return Monitor(config, Silent(), Silent())  # type: ignore[arg-type]


def test_a_collapsed_codebook_is_a_warning_or_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """The message says which codebook; `stop_on` makes it an error that says which checkpoint is left."""
    metrics = {"generator_loss": 1.0, "codes_used_0": 9.0, "codes_used_1": 1.0}

    def run(config: TrainConfig) -> None:
        watching = monitor(config)
        for step in range(1, guards.PATIENCE_STEPS + 2):
            watching.after(step, lambda: metrics)
        watching.flush()

    run(CONFIG)
    assert [r.message for r in caplog.records] == ["codebook 1 has collapsed: 1 of 16 codes in use (step 1000)"]
    run(replace(CONFIG, stop_on=("gradient",)))
    with pytest.raises(AdjaxError, match=r"stopped: codebook 1 has .*codebooks\); the checkpoint of step 500 is kept"):
        run(replace(CONFIG, stop_on=("codebooks",)))
