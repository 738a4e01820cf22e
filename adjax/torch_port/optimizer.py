"""Adam and its learning-rate schedule in the released program's terms: in `config.yml` and in a checkpoint."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from adjax.config import Optimizer
from adjax.errors import AdjaxError
from adjax.torch_port.yaml_values import Values

_STEP_SIZE = 200_000  # of the released StepLR, whose gamma is 1: any would do
_OFF = ("amsgrad", "maximize", "decoupled_weight_decay")  # options of Adam that adjax does not follow
_MAX_UPDATES = 1 << 24  # step counts are float32


def read_optimizer(values: Values, network: str) -> Optimizer:
    """The Optimizer of "generator" or "discriminator" in a `config.yml`; problems are left in `values`."""
    default = Optimizer()
    values.choice(f"{network}_optimizer_type", "Adam")
    adam = values.within(f"{network}_optimizer_params")
    adam.only("lr", "betas", "eps", "weight_decay", *_OFF)
    for key in _OFF:
        adam.constant(key, False)
    adam.number("weight_decay", 0, 0, 0)
    kind = values.choice(f"{network}_scheduler_type", "StepLR", "MultiStepLR")
    inner = values.within(f"{network}_scheduler_params")
    inner.only("gamma", "step_size" if kind == "StepLR" else "milestones")
    if kind == "StepLR":
        inner.number("gamma", 1.0, 1, 1)
    betas = adam.values.get("betas", default.betas)
    if not _are_betas(betas):
        adam.problem("betas", "must be two numbers from 0, under 1")
        betas = default.betas
    clip = values.values.get(f"{network}_grad_norm", -1)
    if not _is_number(clip):
        values.problem(f"{network}_grad_norm", "must be a number; -1 leaves clipping out")
        clip = 0
    constant = kind == "StepLR"
    return Optimizer(
        learning_rate=adam.number("lr", default.learning_rate, 0, 1),
        betas=(float(betas[0]), float(betas[1])),
        epsilon=adam.number("eps", default.epsilon, 0, 1),
        schedule="constant" if constant else "steps",
        milestones=() if constant else tuple(sorted(inner.integers("milestones", ()))),
        gamma=default.gamma if constant else inner.number("gamma", default.gamma, 0, 1),
        clip_norm=float(max(clip, 0)),
    )


def optimizer_parameters(optimizer: Optimizer, network: str) -> dict[str, Any]:
    """The entries of `config.yml` that `read_optimizer` reads as `optimizer`."""
    kind, schedule = _schedule(optimizer)
    if "milestones" in schedule:
        schedule["milestones"] = sorted(optimizer.milestones)
    adam = {"lr": optimizer.learning_rate, "betas": list(optimizer.betas), "eps": optimizer.epsilon}
    return {
        f"{network}_optimizer_type": "Adam",
        f"{network}_optimizer_params": {**adam, "weight_decay": 0.0},
        f"{network}_scheduler_type": kind,
        f"{network}_scheduler_params": schedule,
        f"{network}_grad_norm": optimizer.clip_norm or -1,
    }


def _schedule(optimizer: Optimizer) -> tuple[str, dict[str, Any]]:
    if optimizer.schedule == "cosine" or optimizer.warmup_steps:
        raise AdjaxError(
            "the published program's learning rates are constant or fall at milestones, without warm-up; "
            f"a {optimizer.schedule} schedule with {optimizer.warmup_steps} warm-up steps cannot be exported"
        )
    if optimizer.schedule == "constant":
        return "StepLR", {"step_size": _STEP_SIZE, "gamma": 1.0}
    return "MultiStepLR", {"milestones": Counter(sorted(optimizer.milestones)), "gamma": optimizer.gamma}


def read_states(group: Any, schedule: Any, clip_norm: float) -> tuple[Optimizer, float, int]:
    """The Optimizer, the learning rate now and the number of updates that a checkpoint's parameter group and scheduler
    state tell; `clip_norm` is in neither. Raises AdjaxError that names what adjax cannot follow.
    """
    if not isinstance(group, Mapping) or not isinstance(schedule, Mapping):
        raise AdjaxError("its parameter group and its scheduler must be mappings")
    problems = [f"{key} is not supported" for key in _OFF if group.get(key, False) is not False]
    if not _is_number(group.get("weight_decay", 0)) or group.get("weight_decay", 0) != 0:
        problems.append("weight_decay is not supported unless it is 0")
    for key in ("lr", "initial_lr", "eps"):
        if not _is_number(group.get(key)) or not 0 <= group[key] <= 1:
            problems.append(f"{key} must be a number from 0 to 1")
    if not _are_betas(group.get("betas")):
        problems.append("betas must be two numbers from 0, under 1")
    updates, gamma, milestones = schedule.get("last_epoch"), schedule.get("gamma"), schedule.get("milestones")
    if not _is_count(updates):
        problems.append(f"last_epoch must be a whole number from 0 to {_MAX_UPDATES}")
    if not _is_number(gamma):
        problems.append("gamma must be a number")
    elif milestones is None and gamma != 1:
        problems.append("a scheduler without milestones must be a StepLR with gamma 1")
    if milestones is not None and not _are_milestones(milestones):
        problems.append("milestones must be counts of whole numbers")
    if problems:
        raise AdjaxError("; ".join(problems))
    assert isinstance(updates, int)
    optimizer = Optimizer(
        learning_rate=float(group["initial_lr"]),
        betas=(float(group["betas"][0]), float(group["betas"][1])),
        epsilon=float(group["eps"]),
        schedule="constant" if milestones is None else "steps",
        milestones=() if milestones is None else tuple(sorted(Counter(milestones).elements())),
        gamma=Optimizer().gamma if milestones is None else float(schedule["gamma"]),
        clip_norm=clip_norm,
    )
    return optimizer, float(group["lr"]), updates


def states(optimizer: Optimizer, parameters: int, learning_rate: float, updates: int) -> tuple[dict, dict]:
    """A checkpoint's parameter group and scheduler state: what `read_states` reads."""
    group = {
        "lr": learning_rate,
        "betas": optimizer.betas,
        "eps": optimizer.epsilon,
        "weight_decay": 0.0,
        "amsgrad": False,
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
        "fused": None,
        "decoupled_weight_decay": False,
        "initial_lr": optimizer.learning_rate,
        "params": list(range(parameters)),
    }
    schedule = {
        **_schedule(optimizer)[1],
        "base_lrs": [optimizer.learning_rate],
        "last_epoch": updates,
        "_step_count": updates + 1,
        "_is_initial": False,
        "_get_lr_called_within_step": False,
        "_last_lr": [learning_rate],
    }
    return group, schedule


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_UPDATES


def _are_betas(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(_is_number(b) and 0 <= b < 1 for b in value)


def _are_milestones(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) <= 1000
        and all(_is_count(k) and _is_count(n) and n <= 16 for k, n in value.items())
    )
