"""The first, metric-only steps of training give the losses and parameters of the published program.

The encoder and the codebooks are frozen from the adversarial start on where the paradigm is `efficient`, so those of
the published last checkpoint are those after the metric-only steps.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adjax.config import Data, Losses, Optimizer, TrainConfig
from adjax.torch_port.config_yml import read_config
from adjax.torch_port.names import autoencoder_rows, from_torch, to_torch
from adjax.train.state import from_variables, make_optimizer, variables
from adjax.train.steps import metric_step

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("case", ["train_autoencoder", "train_autoencoder_unfrozen", "train_autoencoder_univ"])
def test_metric_steps(case: str) -> None:
    """Every logged loss within 1e-4, parameters and statistics within 2e-6 (2e-5), step after step.

    In the univ run float32 rounding decided the sign of a handful of gradients, which Adam turns into whole steps:
    there 99.9 % of the parameters agree, and none differs by more than two updates.
    """
    with np.load(GOLDEN / case / "metric_steps.npz") as file:
        arrays = dict(file)
    logged = json.loads((GOLDEN / case / "losses.json").read_text())
    model = read_config(GOLDEN / case / "config.yml", case)
    univ = case == "train_autoencoder_univ"
    config = TrainConfig(
        model,
        Data(batch_size=2, crop_samples=4800),
        Losses(stft_weight=45.0, shape_weight=45.0) if univ else Losses(),
        Optimizer(clip_norm=1.0 if univ else 0.0),
        steps=10,
    )
    start = {k.removeprefix("start/"): v for k, v in arrays.items() if k.startswith("start/")}
    optimizer = make_optimizer(config.optimizer, config.steps)
    state = from_variables(jax.tree.map(jnp.asarray, from_torch(autoencoder_rows(model), start)), optimizer)
    step = jax.jit(metric_step(config, optimizer, None))
    for batch, wanted in zip(arrays["batches"], logged, strict=True):
        state, metrics = step(state, np.moveaxis(batch, 1, -1))
        for name, value in wanted.items():
            np.testing.assert_allclose(metrics[name.removeprefix("train/")], value, rtol=1e-4, err_msg=name)
    ends = {k.removeprefix("end/"): v for k, v in arrays.items() if k.startswith("end/")}
    assert bool(ends) == (case != "train_autoencoder_unfrozen")
    named = to_torch(autoencoder_rows(model), jax.tree.map(np.asarray, variables(state)))
    rounded = []
    for name, wanted in ends.items():
        if univ and "codebook" not in name:
            rounded.append(np.abs(named[name] - wanted).ravel())
            continue
        tolerance = 2e-5 if "codebook" in name else 2e-6
        np.testing.assert_allclose(named[name], wanted, rtol=0, atol=tolerance, err_msg=name)
    if univ:
        difference = np.concatenate(rounded)
        assert np.mean(difference < 5e-6) > 0.999
        assert difference.max() <= 2 * config.optimizer.learning_rate * len(logged)
