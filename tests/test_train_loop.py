"""The training loop: exact resume, guards, logs and what a run leaves behind, on a tiny model and synthetic speech."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

import adjax
from adjax.config import Data, Losses, Mel, Optimizer, TrainConfig
from adjax.errors import AdjaxError
from adjax.strict_json import to_json
from adjax.train import loop, start, statistics
from adjax.train.checkpoints import Checkpoints
from adjax.train.state import from_variables, make_optimizers
from adjax.weights import flatten, load_model
from tests.conftest import TINY_SPECTRAL, fill
from tests.step_on_devices import fill_discriminators

ROOT = Path(__file__).resolve().parents[1]


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


def assert_same_run(actual: Path, wanted: Path) -> None:
    """The same logs and, bit for bit, the same model with its codebooks' statistics."""
    assert records(actual) == records(wanted)
    arrays = flatten(load_model(wanted / "model")[1])
    for name, array in flatten(load_model(actual / "model")[1]).items():
        np.testing.assert_array_equal(array, arrays[name], err_msg=name)


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
    (validation,) = (line for line in lines if "validation/mel_loss" in line)
    assert {"validation/si_sdr_db", "validation/log_spectral_distance", "validation/mel_distance"} <= validation.keys()


def test_resume_is_exact(run: Path, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C at three steps, a stop at four, and two more give bit for bit what six give, random states included."""
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
    assert loop.train(config, tmp_path, resume=True, stop=lambda: True) == (tmp_path / "model", 4)
    assert adjax.load(tmp_path / "model").config == config.model
    assert loop.train(config, tmp_path, resume=True, stop=lambda: False) == (tmp_path / "model", 6)
    assert_same_run(tmp_path, run)
    with pytest.raises(AdjaxError, match="another model"):
        loop.train(replace(config, model=replace(config.model, licence="other")), tmp_path, resume=True)


@pytest.mark.slow
def test_a_full_disk_is_named_and_costs_the_last_checkpoint_only(
    run: Path, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up at the second save; with room again the run goes on from the first, to the same end."""
    import orbax.checkpoint as ocp

    real = ocp.CheckpointManager.save

    def save(self: Any, step: int, **options: Any) -> Any:
        if step == 6:
            raise RuntimeError("write failed") from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, step, **options)

    monkeypatch.setattr(ocp.CheckpointManager, "save", save)
    with pytest.raises(AdjaxError, match="step 6 was not written: the disk is full; earlier checkpoints are kept"):
        loop.train(config, tmp_path)
    monkeypatch.undo()
    assert (tmp_path / "checkpoints" / "3").is_dir()
    loop.train(config, tmp_path, resume=True)
    assert_same_run(tmp_path, run)


def killed(run_dir: Path, config: TrainConfig, when: str) -> int:
    """Trains in a process that kills itself where the expression `when` says so; its exit status.

    `when` is evaluated again and again, with `folder` the run's and `seconds` since its training began.
    """
    (run_dir.parent / "config.json").write_text(to_json(config))
    program = [sys.executable, "-c", _SMALL + _KILLED, str(run_dir), str(run_dir.parent / "config.json"), when]
    return subprocess.run(program, env=environment(), cwd=ROOT, check=False, timeout=300).returncode


def environment() -> dict[str, str]:
    cache = str(jax.config.values["jax_compilation_cache_dir"])
    return {**os.environ, "PYTHONPATH": str(ROOT), "CACHE": cache}


_SMALL = """
import os, signal, sys, threading, time
from pathlib import Path
import tests.conftest
import jax
jax.config.update("jax_compilation_cache_dir", os.environ["CACHE"])
from adjax.cli import main
from adjax.cli.training import read_config
from adjax.train import loop, start, statistics
from tests.test_train_loop import filled
statistics.SIGMA_SECONDS, statistics.KMEANS_LATENTS, start.fresh = 5, 200, filled
"""
_KILLED = """
folder, began = Path(sys.argv[1]), []
def watch():
    while True:
        if (folder / "log.jsonl").exists():
            began.append(time.monotonic())
            seconds = time.monotonic() - began[0]
            if eval(sys.argv[3]):
                os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.0005)
threading.Thread(target=watch, daemon=True).start()
loop.train(read_config(Path(sys.argv[2])), folder, resume=folder.exists())
"""


@pytest.mark.slow
def test_kill_9_during_a_save_costs_what_came_after_the_last(run: Path, config: TrainConfig, tmp_path: Path) -> None:
    """Killed when the save of step 4 begins; the run goes on from step 2 or 4 and ends bit for bit as it would have."""
    often = replace(config, save_every=2)
    assert killed(tmp_path / "run", often, "list((folder / 'checkpoints').glob('4*'))") == -signal.SIGKILL
    with Checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.latest_step() in (2, 4)
    loop.train(often, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", run)


@pytest.mark.slow
def test_kill_9_at_any_moment(config: TrainConfig, tmp_path: Path) -> None:
    """A run that is killed at random moments until it comes through ends bit for bit as one that never was."""
    long = replace(config, steps=60, save_every=1, evaluate_every=60)
    loop.train(long, tmp_path / "whole")
    rng, kills, reached = np.random.default_rng(0), 0, []
    while killed(tmp_path / "run", long, f"seconds > {rng.uniform(0, 4 if kills < 8 else 300)}"):
        kills += 1
        if (tmp_path / "run" / "checkpoints").is_dir():
            with Checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
                reached.append(checkpoints.latest_step() or 0)
    assert kills >= 4
    assert reached == sorted(reached)  # nothing that was saved is ever lost
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_disk_that_is_really_full(config: TrainConfig, tmp_path: Path) -> None:
    """On a file system of 200 kB: one line that says so, among what threads of other packages may print at the end."""
    (tmp_path / "config.json").write_text(to_json(replace(config, steps=60, save_every=1)))
    (tmp_path / "program.py").write_text(_SMALL + "sys.exit(main(sys.argv[1:]))")
    (tmp_path / "disk").mkdir()
    mount = f"mount -t tmpfs -o size=200k none {tmp_path}/disk"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], check=False, capture_output=True).returncode:
        pytest.skip("mounting in a namespace of one's own is not allowed here")
    train = f"{sys.executable} {tmp_path}/program.py train {tmp_path}/config.json --run-dir {tmp_path}/disk/run"
    found = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"{mount} && {train}"],
        env=environment(),
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 1
    (line,) = (line for line in found.stderr.splitlines() if line.startswith("adjax: error: "))
    assert "not written: the disk is full; earlier checkpoints are kept" in line or "No space left on device" in line
    assert str(tmp_path / "disk" / "run") in line


def test_what_is_not_finite_stops_the_run(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says the step and which checkpoint is left; that checkpoint is the last good one."""
    real = loop.make_step

    def poisoned(*arguments: Any, **options: Any) -> Any:
        step = real(*arguments, **options)

        def run(state: Any, batch: Any) -> Any:
            return step(state, batch * jnp.where(state.step == 4, np.nan, 1.0).astype(np.float32))

        return run

    monkeypatch.setattr(loop, "make_step", poisoned)
    with pytest.raises(AdjaxError, match=r"is nan at step 5; the checkpoint of step 3 is kept"):
        loop.train(config, tmp_path)
    monkeypatch.undo()
    folder = loop.export(tmp_path, tmp_path / "model")
    trained = flatten(load_model(folder)[1])
    assert all(np.isfinite(a).all() for a in trained.values())
    small = flatten(load_model(loop.export(tmp_path, tmp_path / "small", storage="int8"))[1])  # for inference only
    assert trained.keys() - small.keys() == {f"codebook/quantizer/{name}" for name in ("embed_avg", "cluster_size")}
    assert all(np.allclose(small[name], trained[name], atol=0.01 * abs(trained[name]).max()) for name in small)


def test_export_of_the_mean_of_checkpoints(run: Path, tmp_path: Path) -> None:
    """Parameters are means of the last ones kept, up to the step that is asked for; codebooks are of that step."""
    exported = {
        name: flatten(load_model(loop.export(run, tmp_path / name, **options))[1])
        for name, options in {
            "3": {"step": 3},
            "6": {},
            "both": {"average": 2},
            "3 alone": {"step": 3, "average": 1},
        }.items()
    }
    first, last, both = exported["3"], exported["6"], exported["both"]
    assert any(not np.array_equal(first[name], last[name]) for name in both if name.startswith("params/"))
    for name, mean in both.items():
        wanted = (first[name] + last[name]) / 2 if name.startswith("params/") else last[name]
        np.testing.assert_allclose(mean, wanted, rtol=1e-6, atol=1e-8)
        np.testing.assert_array_equal(first[name], exported["3 alone"][name])
    with pytest.raises(AdjaxError, match=r"no 3 checkpoints to average but 2, of steps 3, 6: .* keep_every"):
        loop.export(run, tmp_path / "more", average=3)
    with pytest.raises(AdjaxError, match="no 2 checkpoints to average but 1, of steps 3:"):
        loop.export(run, tmp_path / "more", step=3, average=2)
    assert not (tmp_path / "more").exists()


def test_training_lowers_the_loss(config: TrainConfig, tmp_path: Path) -> None:
    """Sixty steps at a high rate on four files must fit them better than the first steps do."""
    longer = replace(
        config, steps=60, evaluate_every=1000, save_every=1000, optimizer=Optimizer(1e-2, betas=(0.8, 0.99))
    )
    loop.train(longer, tmp_path)
    losses = [line["train/mel_loss"] for line in records(tmp_path)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["pmap", "shard_map"])
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


def test_codebooks_that_kmeans_will_replace_are_named(
    run: Path, config: TrainConfig, caplog: pytest.LogCaptureFixture
) -> None:
    again = replace(config, init_from=str(run / "model"))
    for step in (0, 2):
        quantizer = replace(config.model.quantizer, kmeans_start_step=step)
        caplog.clear()
        with caplog.at_level("WARNING"):
            changed = replace(again, model=replace(config.model, quantizer=quantizer))
            start.started(changed, make_optimizers(changed), lambda: iter(()))
        assert ("its codebooks give way to new ones, by k-means before step 2" in caplog.text) == bool(step)


def test_compact_weights_are_a_start(run: Path, config: TrainConfig, tmp_path: Path) -> None:
    """Models for inference come without the codebooks' statistics, from which an update would throw them far away."""
    loop.export(run, tmp_path / "compact", storage="float16")
    again = replace(config, init_from=str(tmp_path / "compact"), optimizer=Optimizer(0.0), steps=1)
    quantizer = replace(again.model.quantizer, kmeans_start_step=0, restart_below=0.0, dropout=0.0)
    loop.train(replace(again, model=replace(again.model, quantizer=quantizer)), tmp_path / "again")
    before, after = (flatten(load_model(tmp_path / n)[1]) for n in ("compact", "again/model"))
    name = next(name for name in before if name.endswith("embed"))
    assert 0 < np.abs(after[name] - before[name]).max() < 0.1 * np.abs(before[name]).max()


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
