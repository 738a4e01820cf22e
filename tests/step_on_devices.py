"""One SGD step of a tiny codec on whatever devices there are; also a program for several processes (test_parallel.py).

Usage: step_on_devices.py OUTPUT_DIR COORDINATOR PROCESSES INDEX
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adjax.config import (
    Adversarial,
    Data,
    Discriminators,
    Losses,
    Mel,
    MultiPeriod,
    MultiResolution,
    MultiScale,
    Stft,
    TrainConfig,
)
from adjax.models import discriminators
from adjax.train import parallel
from adjax.train.state import Optimizers, from_variables, variables
from adjax.train.steps import adversarial_step
from adjax.weights import flatten, unflatten
from tests.conftest import TINY_CONV, fill

DISCRIMINATORS = Discriminators(
    MultiScale(1, 4, 8, 4, (5, 5, 3, 3), (2, 2), norm="spectral"),
    MultiResolution((64,), (16,), (48,), 2, ((3, 3), (3, 3)), ((1, 2), (1, 1))),
    period=MultiPeriod((3,), 2, 4, strides=(3, 1)),
)
CONFIG = TrainConfig(
    replace(TINY_CONV, quantizer=replace(TINY_CONV.quantizer, restart_below=0.0)),
    Data(batch_size=8, crop_samples=480, context_samples=80),
    Losses(
        mel=Mel((128,), (32,), (128,), (12,)),
        stft=Stft((64,), (16,), (64,)),
        stft_weight=3.0,
        shape_windows=(40,),
        shape_weight=5.0,
        error_weight=0.1,
    ),
    adversarial=Adversarial(discriminators=DISCRIMINATORS),
    steps=2,
)


def fill_discriminators(config: Discriminators, samples: int, seed: int = 0) -> dict[str, Any]:
    """Random variables of discriminators without compiling their initialisers; windows are Hann's."""
    rng = np.random.default_rng(seed)
    module, audio = discriminators.Discriminators(config), jnp.zeros((1, samples, 1))
    flat: dict[str, np.ndarray] = {}
    for name, leaf in flatten(dict(jax.eval_shape(module.init, jax.random.key(0), audio))).items():
        if name.endswith("window"):
            flat[name] = np.hanning(leaf.shape[0] + 1)[:-1].astype(np.float32)
        else:
            fan_in = float(np.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 10.0
            flat[name] = (rng.standard_normal(leaf.shape) * fan_in**-0.5).astype(np.float32)
    return unflatten(flat)


def start() -> dict[str, Any]:
    """Variables of both networks before the step."""
    return {"generator": fill(CONFIG.model), "discriminators": fill_discriminators(DISCRIMINATORS, 480)}


def run(kind: parallel.Kind, devices: Sequence[jax.Device] | None = None, **changes: Any) -> dict[str, np.ndarray]:
    """Both networks, codebooks and metrics after an adversarial step on the same global batch, however it is split.

    `changes` are made to the configuration.
    """
    config = replace(CONFIG, **changes)
    optimizers = Optimizers(optax.sgd(0.002), optax.sgd(0.02))
    backend = parallel.backend(lambda axis: adversarial_step(config, optimizers, axis), kind, devices)
    before = jax.tree.map(jnp.asarray, start())
    state = backend.put_state(from_variables(CONFIG, before["generator"], before["discriminators"], optimizers))
    target = np.random.default_rng(1).standard_normal((8, 560, 1)).astype(np.float32) * 0.3
    heard = target + np.random.default_rng(2).standard_normal((8, 560, 1)).astype(np.float32) * 0.05
    share = 8 // jax.process_count()
    rows = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    state, metrics = backend.step(state, backend.put_batch((heard[rows], target[rows])))
    state = backend.get(state)
    tree: Any = {
        "generator": variables(state),
        "discriminators": state.discriminators,
        "metrics": backend.get(metrics),
    }
    return {name: np.asarray(leaf) for name, leaf in flatten(tree).items()}


if __name__ == "__main__":
    output, coordinator, processes, index = sys.argv[1:]
    jax.distributed.initialize(coordinator, int(processes), int(index))
    for kind in ("pmap", "shard_map"):
        arrays = run(kind)
        if jax.process_index() == 0:
            np.savez(Path(output) / f"{kind}.npz", **arrays)
