"""The training loop: exact resume, guards, logs and what a run leaves behind, on a tiny model and synthetic speech."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import adjax
from adjax.config import Data, Losses, Mel, Optimizer, TrainConfig
from adjax.errors import AdjaxError
from adjax.train import loop, start, statistics
from adjax.train.state import from_variables
from adjax.weights import flatten, load_model
from tests.conftest import TINY_SPECTRAL, fill
from tests.step_on_devices import fill_discriminators


def filled(config: TrainConfig, optimizers: Any) -> Any:
    """As `fresh`, without compiling initialisers."""
    discriminators = None
    if config.adversarial:
        discriminators = fill_discriminators(config.adversarial.discriminators, config.data.crop_samples)
    return from_variables(config, fill(config.model, config.seed), discriminators, optimizers)


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Statistics over little audio, and weights that need no compilation; `test_initial_weights` tests real ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "SIGMA_SECONDS", 5)
        patch.setattr(statistics, "KMEANS_LATENTS", 200)
        patch.setattr(start, "fresh", filled)
        yield


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of three seconds of harmonic sound in four files."""
    folder = tmp_path_factory.mktemp("audio")
    time = np.arange(6000) / 8000
    for i in range(4):
        sound = sum(np.sin(2 * np.pi * (110 + 20 * i) * h * time) / h for h in range(1, 8))
        soundfile.write(folder / f"{i}.wav", 0.1 * sound * np.sin(3 * time) ** 2, 8000)
    return str(folder)


@pytest.fixture(scope="module")
def config(audio: str) -> TrainConfig:
    quantizer = replace(TINY_SPECTRAL.quantizer, kmeans_start_step=2, restart_below=0.05, dropout=0.3)
    return TrainConfig(
        replace(TINY_SPECTRAL, quantizer=quantizer),
        Data((audio,), (audio,), batch_size=2, crop_samples=1000, context_samples=200, gain_db=(-3.0, 3.0)),
        Losses(mel=Mel((128,), (64,), (128,), (12,), density=True), mel_weight=1.0, complex_weight=1.0),
        Optimizer(1e-3, schedule="cosine", warmup_steps=1),
        steps=6,
        parallel="jit",
        log_every=1,
        evaluate_every=6,
        save_every=3,
    )


@pytest.fixture(scope="module")
def run(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of six steps."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    loop.train(config, run_dir)
    return run_dir


def records(run_dir: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("time", "steps_per_second")} for line in lines]


def test_a_run_leaves_a_model_that_loads(run: Path, config: TrainConfig) -> None:
    """The exported folder is a codec, its statistics of the training set included."""
    codec = adjax.load(run / "model")
    assert codec.config == config.model
    sigma = flatten(load_model(run / "model")[1])["stats/encoder/sigma"]
    assert sigma.min() > 0
    assert sigma.max() > 5 * sigma.min()  # the sound is not white
    assert np.asarray(codec.decode(codec.encode(np.zeros((1, 100, 1))))).shape == (1, 100, 1)


def test_logs(run: Path) -> None:
    """Losses, codebook use and perplexity by stage, learning rate, validation."""
    lines = records(run)
    training = [line for line in lines if "learning_rate" in line]
    assert [line["step"] for line in training] == [1, 2, 3, 4, 5, 6]
    assert {"train/mel_loss", "train/ppl_0", "train/codes_used_2", "train/vqloss"} <= training[-1].keys()
    assert "train/ppl_0" not in training[0]  # unquantized before the k-means start
    assert any("validation/mel_loss" in line for line in lines)


def test_resume_is_exact(run: Path, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps, a stop, and three more give bit for bit what six give: data, dropout and statistics included."""
    real, made = loop._save, []

    def save_and_stop(*arguments: Any) -> None:
        real(*arguments)
        made.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        loop.train(config, tmp_path)
    assert made == [1]
    monkeypatch.setattr(loop, "_save", real)
    with pytest.raises(AdjaxError, match="--resume"):
        loop.train(config, tmp_path)
    loop.train(config, tmp_path, resume=True)
    assert records(tmp_path) == records(run)
    wanted = flatten(load_model(run / "model")[1])
    for name, array in flatten(load_model(tmp_path / "model")[1]).items():
        np.testing.assert_array_equal(array, wanted[name], err_msg=name)
    with pytest.raises(AdjaxError, match="another model"):
        loop.train(replace(config, model=replace(config.model, licence="other")), tmp_path, resume=True)


def test_what_is_not_finite_stops_the_run(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says the step and which checkpoint is left; that checkpoint is the last good one."""
    real = loop.make_step

    def poisoned(*arguments: Any, **options: Any) -> Any:
        step = real(*arguments, **options)

        def run(state: Any, batch: Any) -> Any:
            return step(state, batch * np.where(state.step == 4, np.nan, 1.0).astype(np.float32))

        return run

    import jax.numpy as jnp

    monkeypatch.setattr(np, "where", jnp.where)
    monkeypatch.setattr(loop, "make_step", poisoned)
    with pytest.raises(AdjaxError, match=r"is nan at step 5; the checkpoint of step 3 is kept"):
        loop.train(config, tmp_path)
    monkeypatch.undo()
    folder = loop.export(tmp_path, tmp_path / "model")
    assert all(np.isfinite(a).all() for a in flatten(load_model(folder)[1]).values())


def test_a_collapsing_codebook_is_reported(config: TrainConfig, caplog: pytest.LogCaptureFixture) -> None:
    """Once for each stage, with its number."""

    class Silent:
        def scalars(self, *_: Any) -> None: ...

    large = replace(config, model=replace(config.model, quantizer=replace(config.model.quantizer, codebook_size=1024)))
    monitor = loop._Monitor(large, Silent(), Silent())  # type: ignore[arg-type]
    for step in (1, 2, 3):
        monitor.after(step, lambda: {"generator_loss": 1.0, "codes_used_0": 900.0, "codes_used_1": 12.0})
    monitor.flush()
    assert [r.message for r in caplog.records] == ["codebook 1 is collapsing: 12 of 1024 codes in use at step 1"]


def test_training_lowers_the_loss(config: TrainConfig, tmp_path: Path) -> None:
    """Sixty steps at a high rate on four files must fit them better than the first steps do."""
    longer = replace(
        config, steps=60, evaluate_every=1000, save_every=1000, optimizer=Optimizer(1e-2, betas=(0.8, 0.99))
    )
    loop.train(longer, tmp_path)
    losses = [line["train/mel_loss"] for line in records(tmp_path)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


@pytest.mark.parametrize("parallel", ["pmap", pytest.param("shard_map", marks=pytest.mark.slow)])
def test_the_loop_on_eight_devices(parallel: str, config: TrainConfig, tmp_path: Path) -> None:
    """State, batches, checkpoints and logs go to the devices and back; the first losses are those of one device."""
    eight = replace(config, data=replace(config.data, batch_size=8), steps=2, save_every=1, evaluate_every=9)
    quantizer = replace(config.model.quantizer, kmeans_start_step=0, dropout=0.0)
    eight = replace(eight, model=replace(config.model, quantizer=quantizer))
    runs = []
    for kind in ("jit", parallel):
        loop.train(replace(eight, parallel=kind), tmp_path / kind)
        runs.append(records(tmp_path / kind)[0])
    loop.train(replace(eight, parallel=parallel, steps=3), tmp_path / parallel, resume=True)
    assert [line["step"] for line in records(tmp_path / parallel)] == [1, 2, 3]
    for name, value in runs[0].items():
        assert runs[1][name] == pytest.approx(value, rel=1e-4), name


def test_weights_of_another_run_are_a_start(run: Path, config: TrainConfig, tmp_path: Path) -> None:
    """Fine-tuning at a learning rate of zero changes nothing but the codebooks' averages."""
    again = replace(config, init_from=str(run / "model"), optimizer=Optimizer(0.0), steps=1)
    again = replace(again, model=replace(again.model, quantizer=replace(again.model.quantizer, kmeans_start_step=0)))
    loop.train(again, tmp_path)
    before, after = (flatten(load_model(d / "model")[1]) for d in (run, tmp_path))
    for name, array in after.items():
        assert np.array_equal(array, before[name]) != name.startswith("codebook"), name


def test_initial_weights() -> None:
    """Uniform within 1/sqrt(fan_in), fan_in counted by PyTorch's rule: *output* channels times kernel if transposed."""
    import jax

    from adjax.models.codec import init
    from tests.conftest import TINY_CONV

    params = init(TINY_CONV, jax.random.key(0))["params"]
    block = params["decoder"]["conv_blocks_0"]["conv"]
    for leaf, fan_in in (
        (params["encoder"]["conv"]["kernel"], 7),
        (params["encoder"]["conv_blocks_1"]["conv"]["kernel"], 8 * 10),
        (block["kernel"], 8 * 10),
        (block["bias"], 8 * 10),
    ):
        bound = fan_in**-0.5
        assert 0.5 * bound < float(np.abs(leaf).max()) <= bound
