"""An adversarial step on many devices is the step on one: a wrong gradient scale hides under Adam, so this uses SGD.

It has a metric step in it. Under spectral norm, one device's power method must be every device's.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from adjax.cli import build_parser
from adjax.cli.training import join_hosts
from adjax.config import Data, Losses, Mel, TrainConfig
from adjax.errors import AdjaxError
from adjax.train import loop, parallel, start
from adjax.train.checkpoints import Checkpoints
from adjax.weights import load_model
from tests import step_on_devices, test_checkpoints
from tests.conftest import TINY_SPECTRAL, fill
from tests.test_adversarial import tiny
from tests.test_train_loop import filled, records

ROOT = Path(__file__).parent.parent
FOUR = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4")


@pytest.fixture(scope="module")
def one_device() -> dict[str, np.ndarray]:
    return step_on_devices.run("jit", jax.devices()[:1])


def assert_same(actual: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """Equal up to the order of float32 sums, and really moved by the step."""
    assert actual.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(actual[name], array, rtol=2e-4, atol=2e-6, err_msg=name)


def test_the_step_moves_every_parameter(one_device: dict[str, np.ndarray]) -> None:
    """Comparing states says nothing about gradients that are zero."""
    from adjax.weights import flatten

    start = flatten(step_on_devices.start())
    moved = {name for name in start if not np.array_equal(one_device[name], start[name])}
    assert {name for name in start if name not in moved} == {n for n in start if n.endswith("window")}


@pytest.mark.parametrize("kind", ["pmap", "shard_map"])
def test_eight_devices(kind: str, one_device: dict[str, np.ndarray]) -> None:
    """Gradients of both networks, EMA statistics and losses are over the global batch."""
    assert jax.device_count() == 8
    assert_same(step_on_devices.run(kind), one_device)  # type: ignore[arg-type]


@pytest.mark.slow  # a run on two hosts, below, is the same and more, but under Adam
def test_two_processes_of_four_devices(one_device: dict[str, np.ndarray], tmp_path: Path) -> None:
    """The same across hosts, each of which holds half of the batch."""
    program = [sys.executable, "-c", _PROGRAM, str(tmp_path)]
    on_two_hosts(lambda coordinator, i: [*program, coordinator, "2", str(i)])
    for kind in ("pmap", "shard_map"):
        with np.load(tmp_path / f"{kind}.npz") as file:
            assert_same(dict(file), one_device)


def on_two_hosts(command: Callable[[str, int], list[str]]) -> list[str]:
    """What two processes of four devices each print, run side by side: command(coordinator, index of the process)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {
        "XLA_FLAGS": FOUR,
        "PYTHONPATH": str(ROOT),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "ADJAX_CACHE_DIR": "",
    }
    processes = [
        subprocess.Popen(
            command(coordinator, i),
            env={**os.environ, **settings},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    messages = [p.communicate(timeout=300) for p in processes]
    assert [p.returncode for p in processes] == [0, 0], "\n".join(m[1] for m in messages)
    return [m[0] for m in messages]


@pytest.mark.slow
def test_two_hosts_write_a_checkpoint_together(tmp_path: Path) -> None:
    """Each writes about half of the bytes, of one logical copy: two processes read what one wrote, and the reverse.

    Values are random, so that compression leaves their number. Where the hosts' states differ, the first writes its
    own: the mixture would fit neither's digest.
    """
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder, keep_every=1) as checkpoints:
        checkpoints.save(1, *state_of(1), meta={})
    program = [sys.executable, "-c", _SAVING, str(folder)]
    on_two_hosts(lambda coordinator, i: [*program, coordinator, str(i)])
    with Checkpoints(folder, read_only=True) as checkpoints:
        for step in (2, 3):
            test_checkpoints.assert_same(checkpoints.restore(step, *state_of(0)), state_of(step))
    for item in ("generator", "training"):
        less, more = sorted(written(folder / "2" / item, process) for process in (0, 1))
        assert more < 1.25 * less
        assert less + more > 0.8 * sum(leaf.nbytes for leaf in jax.tree.leaves(state_of(2)[item == "training"]))
        assert written(folder / "3" / item, 1) == 0


def state_of(step: int) -> tuple[Any, Any]:
    """Both items of a checkpoint; two hosts can cut some arrays in halves and others not."""
    rng = np.random.default_rng(step)

    def item() -> dict[str, Any]:
        shapes = {"cut": (7, 32, 640), "rows": (9, 4096), "odd": (77, 501), "odder": (501, 77), "one": ()}
        arrays: dict[str, Any] = {name: jnp.asarray(rng.random(shape, np.float32)) for name, shape in shapes.items()}
        return {**arrays, "half": arrays["cut"].astype(jnp.bfloat16), "step": jnp.int32(step)}

    return item(), {"moments": (item(), item())}


def written(item: Path, process: int) -> int:
    """Bytes of array data that a process wrote for an item of a checkpoint."""
    return sum(file.stat().st_size for file in (item / f"ocdbt.process_{process}" / "d").glob("*"))


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    for i in range(9):
        soundfile.write(folder / f"{i}.wav", 0.1 * rng.standard_normal(3000), 8000)
    return str(folder)


def metric_run(audio: str) -> TrainConfig:
    """Metric losses alone, on the smallest model."""
    return TrainConfig(
        TINY_SPECTRAL,
        Data((audio,), (audio,), batch_size=8, crop_samples=400, context_samples=40),
        Losses(mel=Mel((128,), (32,), (128,), (12,))),
        steps=2,
        parallel="jit",
        log_every=1,
        save_every=1,
        evaluate_every=3,
    )


def procedure(name: str, audio: str) -> TrainConfig:
    """A published configuration on a tiny model; the parts that it does not train start afresh here."""
    config = tiny(name, audio)
    noise = (audio,) if name == "symad48_denoise" else ()
    start = min(config.generator_start_step, 1)
    data = replace(config.data, batch_size=8, noise=noise)
    return replace(config, data=data, generator_start_step=start, save_every=1, steps=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("metric", ("pmap",)),
        ("symad48", ("pmap", "shard_map")),
        ("symad48_v2", ("pmap", "shard_map")),
        ("symad48_denoise", ("pmap", "shard_map")),
    ],
)
def test_a_run_on_two_hosts(name: str, kinds: tuple[str, ...], audio: str, tmp_path: Path) -> None:
    """One device, eight, and two processes of four go on from one checkpoint to the same losses and gradient norms.

    The processes are the real command; only the first writes logs and the model. Their checkpoint is one logical copy,
    from which a single process goes on in turn.
    """
    config = metric_run(audio) if name == "metric" else procedure(name, audio)
    runs = {kind: tmp_path / kind for kind in ("jit", *kinds, *(f"{kind}-hosts" for kind in kinds))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(start, "fresh", filled)
        patch.setattr(start, "_stats", lambda *_: stats_of(config))
        patch.setattr(start, "PARTS", ())  # none must come from elsewhere
        loop.train(config, runs["jit"])
    for run in list(runs.values())[1:]:
        shutil.copytree(runs["jit"], run)
    longer = replace(config, steps=4)
    loop.train(longer, runs["jit"], resume=True)
    wanted = records(runs["jit"])
    for kind in kinds:
        if name != "metric":  # of which test_train_loop.py has a run on eight devices
            loop.train(replace(longer, parallel=kind), runs[kind], resume=True)
            assert_near(records(runs[kind]), wanted)
        options = ["--resume", "--set", "steps=4", "--set", f"parallel={kind}", "--processes", "2"]
        folder = runs[f"{kind}-hosts"]
        printed = on_two_hosts(
            lambda coordinator, i: [
                *(sys.executable, "-m", "adjax", "train", str(folder), *options),  # noqa: B023
                *("--coordinator", coordinator, "--process", str(i)),
                *(("--stop-after", "1e-9") if i else ()),  # where one stops, all do, and none waits for it
            ]
        )
        assert ["trained for 3 steps of 4; go on with --resume" in text for text in printed] == [True, False]
        assert load_model(folder / "model")[0] == config.model
        for item in ("generator", "training"):  # both hosts write, as they do where their states are the same
            assert written(folder / "checkpoints" / "3" / item, 1) > 0
        loop.train(longer, folder, resume=True)
        assert_near(records(folder), wanted)


def stats_of(config: TrainConfig) -> Any:
    return fill(config.model).get("stats", {})


def assert_near(actual: list[dict[str, float]], wanted: list[dict[str, float]]) -> None:
    """Each record once, its values equal up to what rounding has become after some updates by Adam."""
    assert [line["step"] for line in actual] == [line["step"] for line in wanted]
    for mine, line in zip(actual, wanted, strict=True):
        assert mine.keys() == line.keys()
        for key, value in line.items():
            assert mine[key] == pytest.approx(value, rel=5e-3, abs=1e-3), (key, line["step"])


def test_what_does_not_divide_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA would speak of shapes."""
    with pytest.raises(AdjaxError, match=r"data.batch_size \(12\) must be a multiple of 16: 8 devices times accumul"):
        parallel.check_devices("auto", 12, 2)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(AdjaxError, match="parallel=jit trains on one device of one host"):
        parallel.check_devices("jit", 16, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--coordinator", "localhost:1"], "--coordinator, --processes and --process go together"),
        (["--coordinator", "h:1", "--processes", "2", "--process", "2"], r"--process \(2\) must be from 0 to 1"),
        (["--distributed", "--process", "0"], "--distributed asks the environment"),
    ],
)
def test_options_of_several_hosts_must_fit(options: list[str], message: str) -> None:
    """Before anything is connected: a host that waits for the others in vain says nothing for minutes."""
    with pytest.raises(AdjaxError, match=message):
        join_hosts(build_parser().parse_args(["train", "CONFIG", *options]))


# As _PROGRAM below. Buffers are donated while they are being written, as the training's next step does.
_SAVING = """
import os, sys
flags = os.environ["XLA_FLAGS"]
from tests.test_checkpoints import assert_same
from tests.test_parallel import state_of
os.environ["XLA_FLAGS"] = flags
import jax
from adjax.train.checkpoints import Checkpoints
folder, coordinator, index = sys.argv[1:]
jax.distributed.initialize(coordinator, 2, int(index))
step = jax.jit(lambda state: jax.tree.map(lambda x: x * 0 - 1, state), donate_argnums=0)
same = jax.jit(lambda state: jax.tree.map(lambda x: x + 0, state))
with Checkpoints(folder, keep_every=1) as checkpoints:
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state_of(0))
    assert_same(checkpoints.restore(1, *abstract), state_of(1))
    state = same(state_of(2))
    checkpoints.save(2, *state, meta={})
    step(state)
    generator, training = state_of(3)
    checkpoints.save(3, {**generator, "cut": generator["cut"] + int(index)}, training, meta={})
    checkpoints.wait()
    assert checkpoints.steps() == [1, 2, 3]
    assert_same(checkpoints.restore(2, *abstract), state_of(2))
"""

# tests.conftest asks for eight devices when imported; here four are wanted, and the cluster before any use of jax.
_PROGRAM = """
import os, runpy, sys
flags = os.environ["XLA_FLAGS"]
import tests.conftest
os.environ["XLA_FLAGS"] = flags
sys.argv[0] = "step_on_devices.py"
runpy.run_module("tests.step_on_devices", run_name="__main__")
"""
