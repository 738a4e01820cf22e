"""One per-device step over the axis `data`, run by jit on one device, by pmap or by jit(shard_map) on several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from adjax.errors import AdjaxError

AXIS = "data"
Tree = Any
Device = Any  # a jax.Device, whose class jaxlib shows to no type checker
Step = Callable[[Tree, Tree], tuple[Tree, Tree]]


def mean(tree: Tree, axis: str | None) -> Tree:
    """Mean over devices; the tree itself on one device."""
    return tree if axis is None else lax.pmean(tree, axis)


def total(tree: Tree, axis: str | None) -> Tree:
    """Sum over devices; the tree itself on one device."""
    return tree if axis is None else lax.psum(tree, axis)


def device_key(key: Array, axis: str | None) -> Array:
    """A random key that differs between devices."""
    return key if axis is None else jax.random.fold_in(key, lax.axis_index(axis))


def value_and_grad(
    loss: Callable[[Tree, Tree], tuple[Array, tuple[Tree, Tree]]],
    params: Tree,
    rows: Tree,
    axis: str | None,
    accumulate: int = 1,
) -> tuple[tuple[Array, tuple[Tree, Tree]], Tree]:
    """Global mean of a loss, other global means, what belongs to this device's rows, and the gradient of that mean.

    `loss(params, rows)` gives local means (the loss and a tree of others) and a tree of what belongs to the rows, whose
    leaves are arrays [local batch, ...]. With `accumulate` the rows are gone through in so many equal parts, one after
    another, of which means and gradient are averages; what belongs to the rows then comes stacked, [accumulate, ...].

    Parameters are marked as varying first: under shard_map's checks the gradient with respect to a replicated argument
    would be summed over devices already, and a mean over devices would then be too large by their number.
    """
    if axis is not None:
        params = _varying(params, axis)
    compute = jax.value_and_grad(loss, has_aux=True)
    if accumulate == 1:
        (value, (means, kept)), gradient = compute(params, rows)
        return (mean(value, axis), (mean(means, axis), kept)), mean(gradient, axis)

    def add(sums: Tree, part: Tree) -> tuple[Tree, Tree]:
        (value, (means, kept)), gradient = compute(params, part)
        return jax.tree.map(jnp.add, sums, (value, means, gradient)), kept

    parts = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), rows)
    (value, (means, _)), gradient = jax.eval_shape(compute, params, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (value, means, gradient))
    sums, kept = lax.scan(add, zeros if axis is None else _varying(zeros, axis), parts)
    value, means, gradient = mean(jax.tree.map(lambda x: x / accumulate, sums), axis)
    return (value, (means, kept)), gradient


def _varying(tree: Tree, axis: str) -> Tree:
    return jax.tree.map(lambda x: lax.pcast(x, axis, to="varying"), tree)


class Backend(NamedTuple):
    """A compiled step with donated state, and the ways of its state and batches to the devices and back."""

    step: Step
    put_state: Callable[[Tree], Tree]  # one logical copy to the devices
    put_batch: Callable[[Tree], Tree]  # this host's share of a batch: arrays [local batch, ...]
    get: Callable[[Tree], Tree]  # one logical copy of a state or of metrics


Kind = Literal["auto", "jit", "pmap", "shard_map"]


def check_devices(kind: Kind, batch_size: int, accumulate: int) -> None:
    """Raises AdjaxError where the global batch does not divide into equal parts, or where `jit` meets several hosts."""
    if kind == "jit" and jax.process_count() > 1:
        raise AdjaxError("parallel=jit trains on one device of one host; several hosts need auto, pmap or shard_map")
    devices = 1 if kind == "jit" else len(jax.devices())
    if batch_size % (devices * accumulate):
        parts = f"{devices} devices" + (f" times accumulate={accumulate}" if accumulate > 1 else "")
        raise AdjaxError(f"data.batch_size ({batch_size}) must be a multiple of {devices * accumulate}: {parts}")


def backend(make_step: Callable[[str | None], Step], kind: Kind, devices: Sequence[Device] | None = None) -> Backend:
    """`make_step(axis)` made to run on the devices (all of them by default; `jit` takes the first)."""
    devices = list(devices or jax.devices())
    if kind == "auto":
        kind = "jit" if len(devices) == 1 else "pmap"
    if kind == "jit":
        return Backend(jax.jit(make_step(None), donate_argnums=0), _copy, jax.device_put, lambda tree: tree)
    if kind == "pmap":
        return _pmap(make_step(AXIS), devices)
    return _shard_map(make_step(AXIS), devices)


def _copy(state: Tree) -> Tree:
    """Buffers of the state's own, each different: they will be donated."""
    return jax.tree.map(jnp.array, state)


def _pmap(step: Step, devices: list[Device]) -> Backend:
    local = [d for d in devices if d.process_index == jax.process_index()]
    sharding = NamedSharding(Mesh(np.array(local), (AXIS,)), P(AXIS))

    def put_state(state: Tree) -> Tree:
        return jax.tree.map(lambda x: jax.device_put(np.stack([np.asarray(x)] * len(local)), sharding), state)

    def put_batch(batch: Tree) -> Tree:
        return jax.tree.map(lambda x: jax.device_put(x.reshape(len(local), -1, *x.shape[1:]), sharding), batch)

    run = jax.pmap(step, axis_name=AXIS, devices=devices, donate_argnums=0)
    return Backend(run, put_state, put_batch, lambda tree: jax.tree.map(lambda x: x.addressable_data(0)[0], tree))


def _shard_map(step: Step, devices: list[Device]) -> Backend:
    mesh = Mesh(np.array(devices), (AXIS,))
    replicated, sharded = NamedSharding(mesh, P()), NamedSharding(mesh, P(AXIS))
    mapped = jax.shard_map(step, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=(P(), P()))
    return Backend(
        jax.jit(mapped, donate_argnums=0),
        lambda state: jax.tree.map(lambda x: jax.device_put(np.asarray(x), replicated), state),
        lambda batch: jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharded, x), batch),
        lambda tree: jax.tree.map(lambda x: x.addressable_data(0), tree),
    )
