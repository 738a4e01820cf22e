"""Whole training runs of the published program, step by step: losses, networks, codebook statistics and Adam's state.

The runs go through every procedure: metric-only, adversarial with frozen encoder and codebooks, adversarial with all
parts in training, the vocoder with its two late starts and a fall of the learning rate, and denoising.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adjax.config import PARTS, Adversarial, Data, Discriminators, Losses, Mel, Optimizer, TrainConfig
from adjax.latent_statistics import read_latent_statistics
from adjax.torch_port import (
    Row,
    autoencoder_rows,
    discriminator_rows,
    from_torch,
    import_training,
    read_config,
    read_generator,
    to_torch,
    vocoder_rows,
)
from adjax.torch_port.discriminator_yml import read_discriminators
from adjax.torch_port.layout import parameter_rows, torch_shapes
from adjax.torch_port.yaml_values import Values, load_yaml
from adjax.train.state import TrainState, from_variables, make_optimizers, variables
from adjax.train.steps import make_step, phase
from tests.conftest import FAST_TO_COMPILE

GOLDEN = Path(__file__).parent / "golden"
LATE = Optimizer(2e-4, schedule="steps", milestones=(200_000, 400_000, 600_000, 800_000))
MOMENTS = {"exp_avg": "mu", "exp_avg_sq": "nu"}


class Network(NamedTuple):
    """One of the two networks: its tensors as the published program has them, and where a state of ours keeps them."""

    rows: list[Row]
    variables: Any
    adam: Mapping[str, Any]  # by part


def arrays(case: str, name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / case / name) as file:
        return dict(file)


def network(start: Mapping[str, np.ndarray], rows: list[Row], prefix: str) -> Any:
    """Variables of a network from golden arrays by name; stream buffers are zeros."""
    shapes = torch_shapes(rows)
    buffers = {row.key: np.zeros(shapes[row.key], np.float32) for row in rows if row.path is None}
    found = {key: start[f"{prefix}/{key}"] for key in shapes if key not in buffers}
    return jax.tree.map(jnp.asarray, from_torch(rows, buffers | found))


def follow(case: str, config: TrainConfig, generator: Any, discriminators: Any) -> TrainState:
    """Every step of a run, each logged loss within 1e-4 of the published one; returns the last state."""
    optimizers = make_optimizers(config)
    state = from_variables(config, generator, discriminators, optimizers)
    compiled = functools.cache(
        lambda phase: jax.jit(make_step(config, optimizers, None, phase), compiler_options=FAST_TO_COMPILE)
    )
    batches = arrays(case, "batches.npz")
    pairs = zip(*(np.moveaxis(batches[name], 2, -1) for name in sorted(batches, reverse=True)), strict=True)
    for i, (batch, wanted) in enumerate(
        zip(pairs, json.loads((GOLDEN / case / "losses.json").read_text()), strict=True)
    ):
        state, metrics = compiled(phase(config, i))(state, batch if len(batch) > 1 else batch[0])
        for name, value in wanted.items():
            actual = metrics[name.removeprefix("train/")]
            np.testing.assert_allclose(actual, value, rtol=1e-4, err_msg=f"{name} of step {i}")
        assert ("generator_loss" in metrics) == ("train/generator_loss" in wanted)
        assert ("discriminator_loss" in metrics) == ("train/discriminator_loss" in wanted)
    return state


def networks(state: TrainState, rows: list[Row], others: list[Row]) -> dict[str, Network]:
    def adam(chain: Any) -> Mapping[str, Any]:
        return next(link for link in chain if isinstance(link, dict))

    found = {"generator": Network(rows, variables(state), adam(state.optimizer))}
    if state.discriminators is not None:
        found["discriminator"] = Network(others, state.discriminators, adam(state.discriminators_optimizer))
    return found


def named(part: Network) -> dict[str, np.ndarray]:
    """A network's tensors, moments and step counts under the published names, with those only that Adam has seen."""
    leaves = {row.path[:2] for row in part.rows if row.path}
    tree = {k: {n: v for n, v in t.items() if (k, n) in leaves} for k, t in part.variables.items()}
    tree = jax.tree.map(np.asarray, {k: t for k, t in tree.items() if t})
    result = {f"/{key}": array for key, array in to_torch(part.rows, tree).items()}
    moved = [row for row in parameter_rows(part.rows) if row.path and row.path[1] in part.adam]
    for theirs, ours in MOMENTS.items():
        moments = {name: getattr(adam, ours) for name, adam in part.adam.items()}
        state = to_torch(moved, {"params": jax.tree.map(np.asarray, moments)})
        result |= {f".{theirs}/{key}": array for key, array in state.items()}
    return result | {f".step/{row.key}": np.asarray(part.adam[row.path[1]].count) for row in moved if row.path}


def sample(array: np.ndarray, count: int) -> np.ndarray:
    """Evenly spaced elements, as the golden ends have of large tensors."""
    return array.ravel()[np.linspace(0, array.size - 1, count).round().astype(int)]


def assert_ends(actual: Mapping[str, Network], wanted: Mapping[str, np.ndarray], rounded: float = 0.0) -> None:
    """Networks within 2e-6 (statistics 2e-5), moments within 1e-4 of their maximum, step counts exact.

    Where float32 rounding decided the sign of a handful of gradients, Adam turns it into whole steps: there (`rounded`,
    the largest possible difference) 99.9 % agree within 5e-6, and moments within 1e-2.
    """
    ours = {f"{name}{key}": array for name, part in actual.items() for key, array in named(part).items()}
    differences = []
    for name, target in wanted.items():
        kind, _, key = name.partition("/")
        if kind.endswith(".step"):
            assert int(ours[name]) == int(target) if name in ours else not target, name
            continue
        array = sample(ours[name], target.size)
        scale = np.abs(ours[name]).max()
        if "." in kind:
            tolerance = (1e-2 if rounded else 1e-4) * scale
        else:
            tolerance = 2e-5 if "codebook" in key else rounded or 2e-6
            differences.append(np.abs(array - target.ravel()))
        np.testing.assert_allclose(array, target.ravel(), rtol=0, atol=tolerance, err_msg=name)
    agree = np.concatenate(differences) < 5e-6
    assert np.mean(agree) > 0.999


def autoencoder(case: str) -> tuple[Any, dict[str, np.ndarray]]:
    """The model of a case, and all weights that its run starts from: of train_autoencoder where it says no other."""
    model = read_config(
        (GOLDEN / case if (GOLDEN / case / "config.yml").exists() else FULL[case][0]) / "config.yml", case
    )
    return model, arrays("train_autoencoder", "start.npz") | arrays(case, "start.npz")


FULL = {name: (GOLDEN / f"{name}_checkpoint", steps) for name, steps in (("train_vocoder", 5), ("train_denoise", 3))}


def discriminators_of(path: Path) -> Discriminators:
    return read_discriminators(Values(load_yaml(path)).within("discriminator_params"))


def full_ends(case: str) -> dict[str, np.ndarray]:
    """The published checkpoint after a run, under the names that `named` gives."""
    folder, steps = FULL[case]
    end = import_training(folder / f"checkpoint-{steps}steps.pkl")
    rows = {"discriminator": discriminator_rows(end.discriminators)}
    decoder = end.model.decoder
    rows["generator"] = (
        vocoder_rows(decoder, end.model.dim) if case == "train_vocoder" else autoencoder_rows(end.model)  # type: ignore
    )
    ends: dict[str, np.ndarray] = {}
    for name in rows:
        part = getattr(end, name)
        ends |= {f"{name}/{key}": array for key, array in to_torch(rows[name], part.variables).items()}
        counts = {row.key: row for row in parameter_rows(rows[name])}
        for key, row in counts.items():
            count = functools.reduce(lambda tree, k: tree[k], row.path[1:], part.count)  # type: ignore
            ends[f"{name}.step/{key}"] = count
        for theirs, ours in MOMENTS.items():
            moments = to_torch(parameter_rows(rows[name]), {"params": getattr(part, ours)})
            ends |= {f"{name}.{theirs}/{key}": a for key, a in moments.items() if ends[f"{name}.step/{key}"]}
    return ends


@pytest.mark.parametrize(
    ("case", "start", "trained"),
    [
        pytest.param("train_autoencoder", 3, ("decoder",), marks=pytest.mark.slow),
        ("train_autoencoder_unfrozen", 2, PARTS),
        pytest.param("train_autoencoder_univ", 1, ("decoder",), marks=pytest.mark.slow),
    ],
)
def test_autoencoders(case: str, start: int, trained: Any) -> None:
    """Metric-only steps, then steps against discriminators, with or without what lies before the decoder."""
    model, weights = autoencoder(case)
    univ = case == "train_autoencoder_univ"
    clip = 1.0 if univ else 0.0
    config = TrainConfig(
        model,
        Data(batch_size=2, crop_samples=4800),
        Losses(stft_weight=45.0, shape_weight=45.0) if univ else Losses(),
        Optimizer(clip_norm=clip),
        adversarial=Adversarial(
            start, discriminators_of(GOLDEN / case / "config.yml"), replace(LATE, clip_norm=clip), trained
        ),
        steps=10,
    )
    rows, others = autoencoder_rows(model), discriminator_rows(config.adversarial.discriminators)  # type: ignore
    end = follow(case, config, network(weights, rows, "generator"), network(weights, others, "discriminator"))
    rounded = 2 * config.optimizer.learning_rate * 2 * 3 if univ else 0.0
    assert_ends(networks(end, rows, others), arrays(case, "end.npz"), rounded)


@pytest.mark.slow
def test_vocoder() -> None:
    """The decoder alone, from the third step on; discriminators from the second; the rate halves after 3 updates."""
    folder, _ = FULL["train_vocoder"]
    vocoder = read_generator(folder / "config.yml", "vocoder")
    analyzer, _ = autoencoder("train_autoencoder")
    weights = arrays("train_vocoder", "start.npz")
    encoder = arrays("train_autoencoder", "start.npz")
    encoder |= {k.replace("analyzer/", "generator/"): v for k, v in weights.items() if k.startswith("analyzer/")}
    rows = vocoder_rows(vocoder.decoder, analyzer.quantizer.dim)  # type: ignore
    statistics = read_latent_statistics(GOLDEN / "train_vocoder" / "stats.npy", analyzer.quantizer.dim)
    before = network(encoder, autoencoder_rows(analyzer), "generator")
    decoder = network(weights, rows, "generator")
    for name, array in statistics.items():
        np.testing.assert_array_equal(decoder["stats"]["decoder"][name], array)
    generator = {**before, "params": {**before["params"], **decoder["params"]}, "stats": decoder["stats"]}
    adversarial = Adversarial(1, discriminators_of(folder / "config.yml"), LATE, ("decoder",))
    config = TrainConfig(
        replace(analyzer, decoder=vocoder.decoder),
        Data(batch_size=2, crop_samples=4800),
        Losses(vq_weight=0.0),
        replace(LATE, milestones=(3, 400_000)),
        ("decoder",),
        generator_start_step=2,
        adversarial=adversarial,
        steps=10,
    )
    others = discriminator_rows(adversarial.discriminators)
    end = follow("train_vocoder", config, generator, network(weights, others, "discriminator"))
    assert_ends(networks(end, rows, others), full_ends("train_vocoder"), 2 * 2e-4 * 3)
    for name in ("encoder", "projector"):
        jax.tree.map(np.testing.assert_array_equal, end.params[name], before["params"][name])
    np.testing.assert_array_equal(end.codebooks.embed_avg, before["codebook"]["quantizer"]["embed_avg"])


def test_denoising() -> None:
    """Noisy in, clean out: encoder and projector learn to reach codes that the frozen rest decodes as clean."""
    model, weights = autoencoder("train_denoise")
    config = TrainConfig(
        model,
        Data(batch_size=2, crop_samples=4800),
        Losses(mel=Mel(win_lengths=(2048,))),
        trained=("encoder", "projector"),
        steps=10,
    )
    rows = autoencoder_rows(model)
    end = follow("train_denoise", config, network(weights, rows, "generator"), None)
    wanted = {name: array for name, array in full_ends("train_denoise").items() if name.startswith("generator")}
    assert_ends(networks(end, rows, []), wanted)
