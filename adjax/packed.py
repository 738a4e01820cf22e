"""Many arrays in one: a call of a compiled function takes a microsecond or two for each array that it is given."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

_ALIGNED = 16  # numbers; weights are loaded as vectors of this many


@dataclass(frozen=True, eq=False)
class Part:
    """`shape` of a packed array[..., n], from `offset` on."""

    array: Array
    offset: int
    shape: tuple[int, ...]

    def view(self) -> Array:
        """The part as an array [..., *shape]."""
        end = self.offset + math.prod(self.shape)
        return self.array[..., self.offset : end].reshape(*self.array.shape[:-1], *self.shape)


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each leaf of a pytree lies. There is one object for one layout, since every call compares it."""

    structure: Any
    leaves: tuple[tuple[str, int, tuple[int, ...]], ...]  # type, offset, shape

    def __reduce__(self) -> tuple[Any, ...]:
        """A copied or pickled state keeps its layout, and with it the program that is compiled for it."""
        return _the_layout, (self.structure, self.leaves)


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class Packed:
    """A pytree as one array [*leading, n] of each type, which all its leaves share with their leading axes."""

    arrays: dict[str, Array]
    layout: Layout

    def tree_flatten(self) -> tuple[tuple[dict[str, Array]], Layout]:
        """For jax.tree."""
        return (self.arrays,), self.layout

    @classmethod
    def tree_unflatten(cls, layout: Layout, children: tuple[dict[str, Array]]) -> Packed:
        """For jax.tree."""
        return cls(*children, layout)

    def parts(self) -> Any:
        """The pytree, its leaves being `Part`s."""
        leaves = [Part(self.arrays[kind], offset, shape) for kind, offset, shape in self.layout.leaves]
        return jax.tree.unflatten(self.layout.structure, leaves)

    def views(self) -> Any:
        """The pytree, its leaves being arrays."""
        return views(self.parts())


def views(parts: Any) -> Any:
    """A pytree of arrays for one of `Part`s."""
    return jax.tree.map(Part.view, parts, is_leaf=lambda x: isinstance(x, Part))


def pack_constants(tree: Any) -> Packed:
    """A pytree of NumPy arrays or of arrays on a device, each from a multiple of 16 numbers on."""
    layout = _layout(tree, 0, _ALIGNED)
    arrays: dict[str, np.ndarray] = {}
    for leaf, (kind, offset, shape) in zip(jax.tree.leaves(tree), layout.leaves, strict=True):
        if kind not in arrays:
            ends = (at + math.prod(extent) for k, at, extent in layout.leaves if k == kind)
            arrays[kind] = np.zeros(max(ends), kind)
        arrays[kind][offset : offset + math.prod(shape)] = np.asarray(leaf).reshape(-1)
    return Packed({kind: jnp.asarray(array) for kind, array in arrays.items()}, layout)


def pack_batch(tree: Any) -> Packed:
    """A pytree whose leaves lead with the batch axis; may be traced."""
    layout = _layout(tree, 1, 1)
    groups: dict[str, list[Array]] = {}
    for leaf, (kind, _, _) in zip(jax.tree.leaves(tree), layout.leaves, strict=True):
        groups.setdefault(kind, []).append(leaf.reshape(leaf.shape[0], -1))
    return Packed({kind: jnp.concatenate(leaves, axis=1) for kind, leaves in groups.items()}, layout)


def _layout(tree: Any, leading: int, aligned: int) -> Layout:
    leaves, structure = jax.tree.flatten(tree)
    ends: dict[str, int] = {}
    places = []
    for leaf in leaves:
        kind, shape = str(leaf.dtype), leaf.shape[leading:]
        offset = ends.get(kind, 0)
        ends[kind] = offset + math.ceil(math.prod(shape) / aligned) * aligned
        places.append((kind, offset, shape))
    return _the_layout(structure, tuple(places))


@cache
def _the_layout(structure: Any, leaves: tuple[tuple[str, int, tuple[int, ...]], ...]) -> Layout:
    return Layout(structure, leaves)
