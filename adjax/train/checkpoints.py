"""Training checkpoints: written in the background, committed by a rename, and checked against digests when read."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import hashlib
import json
import logging
import shutil
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from adjax.errors import AdjaxError

ITEMS = ("generator", "training")
T = TypeVar("T")
_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of a run in `directory` (by convention `run_dir/checkpoints`), one folder a step.

    Each holds `generator` (what a model folder is made from), `training` (all else a run needs to go on) and `meta`
    (JSON: what the caller gave, and a digest of every item, since Orbax does not notice a flipped byte). The latest
    two stay, and those whose step is a multiple of `keep_every`. Use `read_only` to look into a run that may be going
    on: it creates nothing and removes nothing.

    Every host must make the same calls, with the same state, of which each writes its part. Until it returns, `save`
    takes room for that part on the host's first device, and for the whole of arrays that cannot be cut (see `divide`).
    If one host fails to write, there is no checkpoint, and it says why once Orbax has waited 20 minutes for the others.
    """

    def __init__(self, directory: str | Path, keep_every: int = 100_000, read_only: bool = False) -> None:
        import orbax.checkpoint as ocp

        self.directory = Path(directory).absolute()
        self._ocp = ocp
        self._read_only = read_only
        if read_only and not self.directory.is_dir():
            raise AdjaxError(f"{self.directory}: no such folder of checkpoints")
        if not read_only and jax.process_index() == 0:
            for unfinished in self.directory.glob("*.orbax-checkpoint-tmp*"):  # Orbax keeps those killed at their start
                shutil.rmtree(unfinished, ignore_errors=True)
        policies = ocp.checkpoint_managers
        options = ocp.CheckpointManagerOptions(
            create=not read_only,
            cleanup_tmp_directories=not read_only,  # what a killed run left half-written
            preservation_policy=policies.AnyPreservationPolicy(
                [policies.LatestN(2), policies.EveryNSteps(keep_every)],
            ),
        )
        self._manager = self._orbax(
            "cannot open the checkpoints", lambda: ocp.CheckpointManager(self.directory, options=options)
        )

    def save(self, step: int, generator: Any, training: Any, meta: dict[str, Any], wait: bool = False) -> None:
        """Save pytrees of arrays (replicated over devices) and `meta` as `step`; returns once the arrays are copied.

        The caller may donate the arrays afterwards. A failure in the background, such as a full disk, is raised by the
        next `save`, `wait` or `close`; the checkpoints before it stay. Steps must grow: see `discard_after`.
        """
        if self._read_only:
            raise AdjaxError(f"{self.directory} was opened to read only")
        self.wait()
        latest = self.latest_step()
        if latest is not None and step <= latest:
            raise AdjaxError(f"{self.directory} already has step {latest}, so step {step} cannot be saved after it")
        digests = {"generator": digest(generator), "training": digest(training), "meta": _digest_json(meta)}
        if jax.process_count() > 1:
            generator, training = self._of_all_hosts(step, (generator, training), digests)
        args = self._ocp.args
        items = args.Composite(
            generator=args.StandardSave(generator),
            training=args.StandardSave(training),
            meta=args.JsonSave({"digests": digests, "meta": meta}),
        )
        self._orbax(f"checkpoint of step {step} was not written", lambda: self._manager.save(step, args=items))
        if wait:
            self.wait()

    def wait(self) -> None:
        """Return when the last save is on the disk; raises AdjaxError if it failed."""
        try:
            self._orbax("the last checkpoint was not written", self._manager.wait_until_finished)
        except AdjaxError:
            self._manager.reload()  # forget the step that failed, which would count as one of the latest two
            raise

    def steps(self) -> list[int]:
        """The steps whose checkpoints are complete, in order."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """The last complete step, or None."""
        return max(self.steps(), default=None)

    def restore(self, step: int, generator_like: Any, training_like: Any) -> tuple[Any, Any]:
        """`generator` and `training` of `step`, with the structure, shapes, types and shardings of the two examples.

        The examples hold arrays or `jax.ShapeDtypeStruct`s. Raises AdjaxError for a checkpoint that is missing, of
        another model, or damaged; it names the item and the latest earlier step that is intact.
        """
        generator, training = self._restore(step, {"generator": generator_like, "training": training_like})
        return generator, training

    def restore_generator(self, step: int, like: Any) -> Any:
        """`generator` alone, without reading what only training needs; otherwise as `restore`."""
        (generator,) = self._restore(step, {"generator": like})
        return generator

    def meta(self, step: int) -> dict[str, Any]:
        """What `save` was given as `meta`, checked against its digest."""
        return self._read_meta(step)["meta"]

    def discard_after(self, step: int) -> None:
        """Delete the checkpoints of later steps, so that a run can resume from `step` and save again."""
        self.wait()
        for later in [s for s in self.steps() if s > step]:
            self._orbax(f"cannot delete the checkpoint of step {later}", partial(self._manager.delete, later))

    def close(self) -> None:
        """Wait for the last save and close; raises AdjaxError if it failed."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _of_all_hosts(self, step: int, items: Any, digests: dict[str, str]) -> Any:
        """What each host gives Orbax: parts of states that differ would make a checkpoint that fits no digest."""
        mine = np.frombuffer("".join(digests[name] for name in ITEMS).encode(), np.uint8)
        if (multihost_utils.process_allgather(mine) == mine).all():
            return divide(items, [jax.local_devices(i)[0] for i in range(jax.process_count())])
        _log.warning("%s: step %d: the hosts' states differ; the first host's is written", self.directory, step)
        return jax.tree.map(np.asarray, items)  # of NumPy arrays, Orbax writes the first host's

    def _restore(self, step: int, like: dict[str, Any]) -> list[Any]:
        self.wait()
        if step not in self.steps():
            known = ", ".join(map(str, self.steps())) or "none"
            raise AdjaxError(f"{self.directory} has no checkpoint of step {step}; it has {known}")
        try:
            return self._read_items(step, like)
        except AdjaxError as error:
            intact = self._latest_intact(step, like)
            advice = "no earlier checkpoint can be read either" if intact is None else f"step {intact} is intact"
            raise AdjaxError(f"{error}; {advice}") from error

    def _latest_intact(self, before: int, like: dict[str, Any]) -> int | None:
        for step in reversed([s for s in self.steps() if s < before]):
            try:
                self._read_items(step, like)
                return step
            except AdjaxError:
                continue
        return None

    def _read_items(self, step: int, like: dict[str, Any]) -> list[Any]:
        digests = self._read_meta(step)["digests"]
        items = []
        for name, example in like.items():
            item = self._read_item(step, name, self._ocp.args.StandardRestore(example))
            if digest(item) != digests[name]:
                raise self._damaged(step, name)
            items.append(item)
        return items

    def _read_meta(self, step: int) -> dict[str, Any]:
        stored = self._read_item(step, "meta", self._ocp.args.JsonRestore())
        try:
            intact = _digest_json(stored["meta"]) == stored["digests"]["meta"] and set(ITEMS) <= set(stored["digests"])
        except (KeyError, TypeError):
            intact = False
        if not intact:
            raise self._damaged(step, "meta")
        return stored

    def _read_item(self, step: int, name: str, args: Any) -> Any:
        composite = self._ocp.args.Composite(**{name: args})
        return self._orbax(
            f"item '{name}' of step {step} cannot be read", lambda: self._manager.restore(step, args=composite)[name]
        )

    def _damaged(self, step: int, name: str) -> AdjaxError:
        return AdjaxError(f"{self.directory}: item '{name}' of step {step} is damaged: its digest differs")

    def _orbax(self, what: str, call: Callable[[], T]) -> T:
        """The result of a call of Orbax, whose errors become one line; the original is kept as a note.

        A failed read leaves coroutines behind, each of which prints a page when it is collected, and reads under way,
        whose ends find their event loop closed. They are waited for and collected here, unheard, and the original
        exception is not chained because it would keep them alive.
        """
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            try:
                return call()
            except Exception as error:
                failure = AdjaxError(f"{self.directory}: {what}: {_reason(error)}")
                failure.add_note(traceback.format_exc())
            _wait_for_reads()
            gc.collect()
        finally:
            sys.unraisablehook = hook
        raise failure


def digest(tree: Any) -> str:
    """blake2b of a pytree: path, type, shape and bytes of every leaf, in the order of the paths.

    Paths are made of keys, indices and field names, so a dict and a namedtuple of the same leaves agree.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(tree))
    named = sorted((jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves)
    total = hashlib.blake2b(digest_size=32)
    for name, leaf in named:
        array = np.ascontiguousarray(leaf)
        total.update(f"{name}\0{array.dtype.name}\0{np.shape(leaf)}\0".encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def divide(tree: Any, hosts: list[Any]) -> Any:
    """A pytree of which every host has a copy, as global arrays of which Orbax has each host write a part.

    `hosts` holds one device of each. An array is cut along its first axis that their number divides; one without such
    an axis goes as a whole to the host that has least of those to write.
    """
    wholes = [0] * len(hosts)  # bytes

    def global_array(leaf: Any) -> jax.Array:
        array = np.asarray(leaf)
        axis = next((i for i, size in enumerate(array.shape) if size % len(hosts) == 0), None)
        if axis is None:
            writer = wholes.index(min(wholes))
            wholes[writer] += array.nbytes
            order = hosts[writer:] + hosts[:writer]  # of equal copies, Orbax writes the first device's
            sharding = NamedSharding(Mesh(np.array(order), ("hosts",)), P())
        else:
            sharding = NamedSharding(Mesh(np.array(hosts), ("hosts",)), P(*[None] * axis, "hosts"))
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(global_array, tree)


def _wait_for_reads() -> None:
    import tensorstore as ts

    for future in [each for each in gc.get_objects() if type(each) is ts.Future]:  # isinstance would wake lazy objects
        with contextlib.suppress(asyncio.CancelledError, TimeoutError):
            future.exception(timeout=60)


def _digest_json(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=32).hexdigest()


def _reason(error: BaseException) -> str:
    """One line on why Orbax failed: a full disk if that is anywhere in the chain, and else the first cause."""
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(inner)
    for link in chain:
        full = isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left on device" in str(link) or "Disk quota exceeded" in str(link):
            return "the disk is full; earlier checkpoints are kept"
    return " ".join(str(chain[-1]).split())[:500] or type(chain[-1]).__name__
