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

from adjax.config import Data, Losses, Mel, Stft, TrainConfig
from adjax.train import parallel
from adjax.train.state import from_variables, variables
from adjax.train.steps import metric_step
from adjax.weights import flatten
from tests.conftest import TINY_CONV, fill

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
    steps=2,
)


def run(kind: parallel.Kind, devices: Sequence[jax.Device] | None = None) -> dict[str, np.ndarray]:
    """Parameters, codebooks and metrics after one step on the same global batch, however it is split."""
    optimizer = optax.sgd(0.05)
    backend = parallel.backend(lambda axis: metric_step(CONFIG, optimizer, axis), kind, devices)
    state = backend.put_state(from_variables(jax.tree.map(jnp.asarray, fill(CONFIG.model)), optimizer))
    audio = np.random.default_rng(1).standard_normal((8, 560, 1)).astype(np.float32) * 0.3
    share = 8 // jax.process_count()
    first = jax.process_index() * share
    state, metrics = backend.step(state, backend.put_batch(audio[first : first + share]))
    tree: Any = {**variables(backend.get(state)), "metrics": backend.get(metrics)}
    return {name: np.asarray(leaf) for name, leaf in flatten(tree).items()}


if __name__ == "__main__":
    output, coordinator, processes, index = sys.argv[1:]
    jax.distributed.initialize(coordinator, int(processes), int(index))
    for kind in ("pmap", "shard_map"):
        arrays = run(kind)
        if jax.process_index() == 0:
            np.savez(Path(output) / f"{kind}.npz", **arrays)
