"""Many arrays in one: what goes in comes out, and compiled programs see few arguments."""

from __future__ import annotations

import copy
import math
import pickle
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from adjax.packed import Part, pack_batch, pack_constants
from adjax.streaming import Codec
from tests.conftest import TINY_CONV, fill

LEAF = st.tuples(st.sampled_from(["float32", "int32", "bool"]), st.lists(st.integers(0, 5), max_size=3))
TREE = st.recursive(LEAF, lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, min_size=1, max_size=4))


def arrays(tree: Any, leading: tuple[int, ...], seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)

    def one(leaf: tuple[str, list[int]]) -> np.ndarray:
        return rng.integers(0, 100, (*leading, *leaf[1])).astype(leaf[0])

    return jax.tree.map(one, tree, is_leaf=lambda x: isinstance(x, tuple))


def assert_equal(ours: Any, theirs: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@settings(max_examples=10, deadline=None)
@given(TREE)
def test_constants(tree: Any) -> None:
    """Leaves come back as they were, and none starts within another one's vector."""
    given_ = arrays(tree, ())
    packed = pack_constants(given_)
    assert_equal(packed.views(), given_)
    parts = jax.tree.leaves(packed.parts(), is_leaf=lambda x: isinstance(x, Part))
    assert all(part.offset % 16 == 0 for part in parts)
    for array in packed.arrays.values():
        inside = sorted((p.offset, p.offset + math.prod(p.shape)) for p in parts if p.array is array)
        assert inside[-1][1] <= array.shape[0]
        assert all(end <= start for (_, end), (start, _) in pairwise(inside))


@settings(max_examples=6, deadline=None)
@given(TREE, st.integers(1, 3))
def test_batches(tree: Any, batch: int) -> None:
    """Each leaf leads with the batch axis, so that what selects streams in one array selects them in all leaves."""
    given_ = jax.tree.map(jnp.asarray, arrays(tree, (batch,)))
    packed = pack_batch(given_)
    assert all(array.shape[0] == batch for array in jax.tree.leaves(packed))
    assert_equal(packed.views(), given_)
    assert_equal(jax.tree.map(lambda x: x[::-1], packed).views(), jax.tree.map(lambda x: x[::-1], given_))


def test_one_layout_for_equal_trees() -> None:
    """A compiled program is found by the layout of its arguments: another object would mean another compilation."""
    tree, wider = {"a": ("float32", [2]), "b": ("bool", [])}, {"a": ("float32", [3]), "b": ("bool", [])}
    one, other = pack_batch(arrays(tree, (2,))), pack_batch(arrays(tree, (5,), 1))
    assert one.layout is other.layout
    assert one.layout is not pack_batch(arrays(wider, (2,))).layout
    traces = []

    @jax.jit
    def step(state: Any) -> Any:
        traces.append(1)
        return pack_batch(state.views())

    assert_equal(step(step(one)), one)
    for moved in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):  # streams may move to another process
        assert moved.layout is one.layout
        assert_equal(step(moved), one)
    assert len(traces) == 1


def test_a_step_takes_few_arrays() -> None:
    """Each array of a call costs a microsecond or two, and a vocoder's weights and state are 250."""
    codec = Codec(TINY_CONV, fill(TINY_CONV))
    if codec.uses_kernels:
        arguments = (codec._decoder_tree, codec.init_decoder(2), codec._encoder_tree, codec.init_encoder(2))
        assert [len(jax.tree.leaves(a)) for a in arguments] == [4, 2, 4, 1]
    assert_equal(codec.tree["codebook"], Codec(TINY_CONV, fill(TINY_CONV), kernels=False).tree["codebook"])
