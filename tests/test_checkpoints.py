"""Checkpoints: exact, kept as promised, never silently wrong, and no worse for a crash in the middle of a save."""

from __future__ import annotations

import errno
import gc
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adjax.errors import AdjaxError
from adjax.train.checkpoints import Checkpoints, digest, divide

META = {"config": {"name": "tiny"}, "seconds": 1.5}


def generator(seed: int) -> dict[str, Any]:
    values = np.random.default_rng(seed).standard_normal((40, 50)).astype(np.float32)
    return {"params": {"w": jnp.asarray(values), "b": jnp.asarray(values[0], jnp.bfloat16)}, "codebook": jnp.zeros(3)}


def training(seed: int) -> dict[str, Any]:
    moments = generator(seed + 100)["params"]
    adam, rest = optax.adam(1e-3).init(moments)
    optimizer = (adam._replace(mu=moments), rest)  # zeros would leave no chunk worth damaging
    return {"optimizer": optimizer, "step": jnp.int32(seed), "key": jnp.array([0, seed], jnp.uint32)}


def abstract(tree: Any) -> Any:
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)


def save(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        checkpoints.save(step, generator(step), training(step), {**META, "step": step})
    checkpoints.wait()


def assert_same(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def largest_chunk(item: Path) -> Path:
    return max((p for p in item.rglob("*") if p.parent.name == "d"), key=lambda p: p.stat().st_size)


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps 1 and 2, to be copied by tests that damage them."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    with Checkpoints(directory) as checkpoints:
        save(checkpoints, 1, 2)
    return directory


@pytest.fixture
def directory(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


def test_round_trip_is_exact(saved: Path) -> None:
    """Values, types and the optimizer's namedtuples come back, from examples with and without values."""
    with Checkpoints(saved, read_only=True) as checkpoints:
        assert checkpoints.steps() == [1, 2]
        assert checkpoints.latest_step() == 2
        restored = checkpoints.restore(2, abstract(generator(0)), abstract(training(0)))
        assert_same(restored, (generator(2), training(2)))
        assert_same(checkpoints.restore_generator(1, generator(0)), generator(1))
        assert checkpoints.meta(2) == {**META, "step": 2}


def test_the_arrays_may_be_donated_after_save(tmp_path: Path) -> None:
    """The loop's next step overwrites the buffers while the save still runs in the background."""
    step = jax.jit(lambda tree: jax.tree.map(lambda a: a * 0 - 1, tree), donate_argnums=0)
    with Checkpoints(tmp_path / "c") as checkpoints:
        tree = generator(5)
        checkpoints.save(1, tree, training(5), META)
        step(tree)
        checkpoints.wait()
        assert_same(checkpoints.restore_generator(1, generator(0)), generator(5))


@pytest.mark.parametrize("hosts", [2, 3])
def test_hosts_write_equal_parts_of_one_logical_copy(hosts: int, tmp_path: Path) -> None:
    """Devices stand for hosts. Orbax writes the shards whose replica is 0; three divides few of these sizes."""
    tree = {"uncut": [jnp.full((7, 11, 13), value) for value in range(6)], **generator(1), "step": jnp.int32(3)}
    divided = divide(tree, devices := jax.devices()[:hosts])
    written = dict.fromkeys(devices, 0)
    for shard in [shard for leaf in jax.tree.leaves(divided) for shard in leaf.addressable_shards]:
        written[shard.device] += shard.data.nbytes * (shard.replica_id == 0)
    assert sum(written.values()) == sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    assert max(written.values()) < 1.5 * min(written.values())
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, divided, training(1), META)
        assert_same(checkpoints.restore_generator(1, abstract(tree)), tree)


def test_the_latest_two_and_every_nth_are_kept(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "c", keep_every=4) as checkpoints:
        assert checkpoints.latest_step() is None
        save(checkpoints, *range(1, 8))
        assert checkpoints.steps() == [4, 6, 7]


def test_steps_must_grow_and_discarding_makes_room(directory: Path) -> None:
    """Orbax would skip an older step without a word: a run resumed from an earlier step would save nothing."""
    with Checkpoints(directory) as checkpoints:
        for step in (1, 2):
            with pytest.raises(AdjaxError, match=f"already has step 2, so step {step} cannot be saved"):
                checkpoints.save(step, generator(1), training(1), META)
        checkpoints.discard_after(1)
        assert checkpoints.steps() == [1]
        checkpoints.save(2, generator(7), training(7), META, wait=True)
        assert_same(checkpoints.restore_generator(2, generator(0)), generator(7))


@pytest.mark.parametrize("item", ["generator", "training"])
def test_a_flipped_byte_is_found(directory: Path, item: str) -> None:
    """Orbax restores it as wrong values or fails with a page of text; one line must name item, step and way out."""
    flip_byte(largest_chunk(directory / "2" / item))
    with Checkpoints(directory, read_only=True) as checkpoints:
        with pytest.raises(AdjaxError, match=rf"item '{item}' of step 2 .*; step 1 is intact") as raised:
            checkpoints.restore(2, generator(0), training(0))
        assert "\n" not in str(raised.value)
        if item == "training":  # a generator can be had from a checkpoint whose other half is lost
            assert_same(checkpoints.restore_generator(2, generator(0)), generator(2))


def test_a_flipped_number_is_found_by_the_digest(directory: Path) -> None:
    """The same bytes under another checkpoint's digest: what Orbax cannot see in arrays that it reads without error."""
    shutil.rmtree(directory / "2" / "generator")
    shutil.copytree(directory / "1" / "generator", directory / "2" / "generator")
    with (
        Checkpoints(directory, read_only=True) as checkpoints,
        pytest.raises(AdjaxError, match="item 'generator' of step 2 is damaged: its digest differs; step 1 is intact"),
    ):
        checkpoints.restore_generator(2, generator(0))


@pytest.mark.parametrize("how", ["truncated chunk", "no chunk", "edited meta", "torn meta"])
def test_other_damage_is_one_line(directory: Path, how: str) -> None:
    chunk = largest_chunk(directory / "2" / "generator")
    meta = directory / "2" / "meta" / "metadata"
    if how == "truncated chunk":
        chunk.write_bytes(chunk.read_bytes()[:100])
    elif how == "no chunk":
        chunk.unlink()
    elif how == "edited meta":
        meta.write_text(meta.read_text().replace("tiny", "huge"))
    else:
        meta.write_text(meta.read_text()[:-20])
    item = "meta" if "meta" in how else "generator"
    with Checkpoints(directory, read_only=True) as checkpoints:
        with pytest.raises(AdjaxError, match=rf"item '{item}' of step 2 .*; step 1 is intact") as raised:
            checkpoints.restore_generator(2, generator(0))
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < 1000


def test_all_damaged_says_so(directory: Path) -> None:
    for step in (1, 2):
        flip_byte(largest_chunk(directory / str(step) / "generator"))
    with (
        Checkpoints(directory, read_only=True) as checkpoints,
        pytest.raises(AdjaxError, match=r"step 2 .*; no earlier checkpoint can be read either"),
    ):
        checkpoints.restore_generator(2, generator(0))


def test_another_models_checkpoint_and_missing_ones_are_one_line(saved: Path, tmp_path: Path) -> None:
    with Checkpoints(saved, read_only=True) as checkpoints:
        with pytest.raises(AdjaxError, match="has no checkpoint of step 9; it has 1, 2"):
            checkpoints.restore_generator(9, generator(0))
        other = {**generator(0), "codebook": jnp.zeros(4)}
        with pytest.raises(AdjaxError, match=r"item 'generator' of step 2 cannot be read: .*\(4,\).*\(3,\)"):
            checkpoints.restore_generator(2, other)
        with pytest.raises(AdjaxError, match=r"item 'generator' of step 2 cannot be read: .*extra"):
            checkpoints.restore_generator(2, {**generator(0), "extra": jnp.zeros(2)})
    with pytest.raises(AdjaxError, match="absent: no such folder"):
        Checkpoints(tmp_path / "absent", read_only=True)
    assert not (tmp_path / "absent").exists()


def test_a_failed_read_leaves_nothing_that_is_heard_later(tmp_path: Path) -> None:
    """The other arrays' reads are still under way when one fails; pytest turns what they print into an error."""
    large = {f"w{i}": jnp.asarray(np.random.default_rng(i).standard_normal((1000, 1000)), "float32") for i in range(10)}
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, large, training(1), META, wait=True)
        with pytest.raises(AdjaxError, match=r"item 'generator' of step 1 cannot be read: .*\(4,\)"):
            checkpoints.restore_generator(1, {**large, "w0": jnp.zeros(4)})
    time.sleep(0.5)
    gc.collect()


def test_a_full_disk_is_named_and_keeps_what_was_there(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Checkpoints(directory) as checkpoints:

        def full(*_: object, **__: object) -> None:
            raise RuntimeError("write failed") from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(checkpoints._manager, "save", full)
        with pytest.raises(AdjaxError, match="step 3 was not written: the disk is full; earlier checkpoints are kept"):
            save(checkpoints, 3)
        assert checkpoints.steps() == [1, 2]
        assert_same(checkpoints.restore_generator(2, generator(0)), generator(2))


@pytest.mark.filterwarnings("ignore:Exception in thread:pytest.PytestUnhandledThreadExceptionWarning")  # Orbax's own
def test_a_save_that_fails_in_the_background_is_raised_and_forgotten(directory: Path) -> None:
    """Writes fail for real, by a limit on file sizes; a step that never was must not push an intact one out."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    values = jnp.asarray(np.random.default_rng(0).standard_normal(300_000), jnp.float32)
    with Checkpoints(directory) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        try:
            with pytest.raises(AdjaxError, match=r"the last checkpoint was not written: .*w/0"):
                checkpoints.save(3, {"w": values}, training(3), META, wait=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert checkpoints.steps() == [1, 2]
        save(checkpoints, 4)
        assert checkpoints.steps() == [2, 4]
        assert_same(checkpoints.restore_generator(4, generator(0)), generator(4))


def test_read_only_touches_nothing(directory: Path) -> None:
    """A reader beside a running training must not remove the folder that is just being written."""
    temporary = directory / "3.orbax-checkpoint-tmp"
    temporary.mkdir()
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.latest_step() == 2
        checkpoints.restore_generator(2, generator(0))
        with pytest.raises(AdjaxError, match="read only"):
            save(checkpoints, 4)
    assert temporary.exists()


def test_kill_9_in_the_middle_of_a_save_leaves_the_previous_step(tmp_path: Path) -> None:
    """A process is killed as soon as the second save's temporary folder appears, long before its rename."""
    program = """
        import os, signal, sys, threading, time
        from pathlib import Path
        import jax.numpy as jnp
        from adjax.train.checkpoints import Checkpoints
        directory = Path(sys.argv[1])
        def kill():
            while not list(directory.glob("2.*tmp*")):
                time.sleep(0.0005)
            os.kill(os.getpid(), signal.SIGKILL)
        checkpoints = Checkpoints(directory)
        tree = lambda value: {"w": jnp.full((4_000_000,), value)}
        checkpoints.save(1, tree(1.0), {"n": jnp.int32(1)}, {}, wait=True)
        threading.Thread(target=kill).start()
        checkpoints.save(2, tree(2.0), {"n": jnp.int32(2)}, {}, wait=True)
        time.sleep(30)
    """
    directory = tmp_path / "checkpoints"
    root = Path(__file__).resolve().parents[1]
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(directory)],
        env={**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"},
        check=False,
        timeout=60,
    )
    assert child.returncode == -signal.SIGKILL
    assert list(directory.glob("2.*tmp*"))
    example = {"w": jnp.zeros((4_000_000,))}
    with Checkpoints(directory) as checkpoints:
        assert not list(directory.glob("2.*tmp*"))
        assert checkpoints.steps() == [1]
        assert float(checkpoints.restore_generator(1, example)["w"].max()) == 1.0
        checkpoints.save(2, {"w": example["w"]}, {"n": jnp.int32(2)}, {}, wait=True)
        assert checkpoints.steps() == [1, 2]


def test_digest_sees_paths_types_shapes_and_bytes() -> None:
    """Trees that differ in any of the four differ; a namedtuple and a dict of the same leaves do not."""
    base = {"a": jnp.zeros((2, 3)), "b": jnp.zeros((0,))}
    others = [
        {"a": base["a"], "c": base["b"]},
        {"a": jnp.zeros((3, 2)), "b": base["b"]},
        {"a": jnp.zeros((2, 3), jnp.int32), "b": base["b"]},
        {"a": -base["a"], "b": base["b"]},  # -0.0 equals 0.0 and is other bytes
        {"a": base["a"]},
    ]
    digests = {digest(tree) for tree in [base, *others]}
    assert len(digests) == 6
    assert digest(dict(reversed(base.items()))) == digest(base)
    state = optax.TraceState(trace=base["a"])
    assert digest(state) == digest({"trace": base["a"]})
