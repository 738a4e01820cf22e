"""The table of a released network's tensors: PyTorch key and shape, adjax path, and the layouts between them.

Both directions read the same rows, so what import takes is what export writes. A row has the PyTorch name of a
weight-normed pair as released (`weight_g`, `weight_v`); import takes PyTorch's later names for it too. The order of the
rows is the released program's: it numbers the parameters in its optimizers' states by it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adjax.errors import AdjaxError

Shape = tuple[int, ...]
TreePath = tuple[str, ...]

_LATER_NAMES = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}


@dataclass(frozen=True)
class Layout:
    """How one kind of tensor is stored on either side."""

    shape: Callable[[Shape], Shape]  # adjax's, of PyTorch's
    from_torch: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray, Shape], np.ndarray]  # with PyTorch's shape


def _taps_from_torch(weight: np.ndarray) -> np.ndarray:
    channels, features, length = weight.shape
    taps = weight.reshape(channels, features, 2, length // 2).transpose(2, 0, 3, 1)
    return taps[::-1].reshape(2, channels, length // 2 * features)  # the first half of PyTorch's is the current frame's


def _taps_to_torch(kernel: np.ndarray, shape: Shape) -> np.ndarray:
    channels, features, length = shape
    taps = kernel[::-1].reshape(2, channels, length // 2, features)
    return taps.transpose(1, 3, 0, 2).reshape(shape)


# Kernels (out, in, k) to (k, in, out); their gains and biases; codebooks (dim, size) to (size, dim).
REVERSED = Layout(lambda shape: shape[::-1], np.transpose, lambda array, _: np.transpose(array))
# Transposed kernels (in, out, 2s) to two taps over frames (2, in, s * out), sample major.
TAPS = Layout(lambda shape: (2, shape[0], shape[2] // 2 * shape[1]), _taps_from_torch, _taps_to_torch)
# Their gains (in, 1, 1) to (1, in, 1).
TAP_GAINS = Layout(
    lambda shape: (shape[1], shape[0], shape[2]),
    lambda array: array.transpose(1, 0, 2),
    lambda array, _: array.transpose(1, 0, 2),
)
# Kernels of images (out, in, height, width) to (height, width, in, out), and their gains.
IMAGE = Layout(
    lambda shape: (*shape[2:], shape[1], shape[0]),
    lambda array: array.transpose(2, 3, 1, 0),
    lambda array, _: array.transpose(3, 2, 0, 1),
)
# Kernels of images of width 1, (out, in, k, 1), to (k, in, out), and their gains.
COLUMN = Layout(
    lambda shape: shape[2::-1],
    lambda array: array[..., 0].transpose(2, 1, 0),
    lambda array, _: array.transpose(2, 1, 0)[..., None],
)


@dataclass(frozen=True)
class Row:
    """One tensor of a checkpoint; without a path a stream buffer: zeros, which adjax does not keep with the weights.

    A tensor that adjax splits takes several rows of one key and a path each; one that it stacks, several rows of one
    path and a key each.
    """

    key: str
    shape: Shape  # PyTorch's; of this part, where there are several
    path: TreePath | None = None
    layout: Layout = REVERSED
    stage: int | None = None  # its index along the first axis of adjax's leaf, which stacks the stages
    part: int | None = None  # its index along the first axis of PyTorch's tensor, which concatenates the parts


def parameter_rows(rows: Iterable[Row]) -> list[Row]:
    """Those of what an optimizer trains: neither buffers nor statistics."""
    return [row for row in rows if row.path is not None and row.path[0] == "params"]


def from_torch(rows: Sequence[Row], state: Mapping[str, Any]) -> dict[str, Any]:
    """adjax variables (nested dicts of float32 arrays) of a checkpoint's state dict.

    Raises AdjaxError with the name of every missing, unknown and misshapen key.
    """
    state = _released_names(state)
    shapes = torch_shapes(rows)
    problems = [f"missing: {key}" for key in shapes if key not in state]
    problems += [f"unknown: {key!r}" for key in state if key not in shapes]
    problems += [p for key, shape in shapes.items() if key in state for p in _misfit(key, state[key], shape)]
    if problems:
        raise AdjaxError(f"the checkpoint does not fit its configuration: {'; '.join(problems)}")
    stages: dict[TreePath, list[np.ndarray]] = {}
    variables: dict[str, Any] = {}
    for row in rows:
        if row.path is None:
            continue
        tensor = state[row.key]
        if row.part is not None:
            tensor = tensor[row.part * row.shape[0] :][: row.shape[0]]
        array = np.array(row.layout.from_torch(tensor), order="C")
        if row.stage is not None:
            stages.setdefault(row.path, []).append(array)
        else:
            insert(variables, row.path, array)
    for path, arrays in stages.items():
        insert(variables, path, np.stack(arrays))
    return variables


def to_torch(rows: Sequence[Row], variables: Mapping[str, Any]) -> OrderedDict[str, np.ndarray]:
    """The released program's state dict, in its order, of adjax variables: the inverse of `from_torch`.

    Raises AdjaxError with the path of every missing, unknown and misshapen variable.
    """
    leaves = dict(_leaves(variables))
    shapes: dict[TreePath, Shape] = {}
    for row in rows:
        if row.path is not None:
            shape = row.layout.shape(row.shape)
            shapes[row.path] = shape if row.stage is None else (row.stage + 1, *shape)  # the last stage's row decides
    problems = [f"missing: {'/'.join(path)}" for path in shapes if path not in leaves]
    problems += [f"unknown: {'/'.join(path)}" for path in leaves if path not in shapes]
    problems += [p for path in shapes if path in leaves for p in _misfit("/".join(path), leaves[path], shapes[path])]
    if problems:
        raise AdjaxError(f"the variables do not fit their configuration: {'; '.join(problems)}")
    parts: dict[str, list[np.ndarray]] = {}
    for row in rows:
        if row.path is None:
            tensor = np.zeros(row.shape, np.float32)
        else:
            leaf = leaves[row.path] if row.stage is None else leaves[row.path][row.stage]
            tensor = np.ascontiguousarray(row.layout.to_torch(leaf, row.shape))
        parts.setdefault(row.key, []).append(tensor)
    return OrderedDict((key, p[0] if len(p) == 1 else np.concatenate(p)) for key, p in parts.items())


def torch_shapes(rows: Iterable[Row]) -> dict[str, Shape]:
    """PyTorch's shape of each tensor, in the released program's order."""
    shapes: dict[str, Shape] = {}
    for row in rows:
        parts = 1 if row.part is None else row.part + 1  # the last part's row decides
        shapes[row.key] = (parts * row.shape[0], *row.shape[1:])
    return shapes


def _released_names(state: Mapping[str, Any]) -> dict[str, Any]:
    renamed: dict[str, Any] = {}
    for key, value in state.items():
        key = str(key)
        for later, released in _LATER_NAMES.items():
            if key.endswith("." + later):
                key = key.removesuffix(later) + released
        if key in renamed:
            raise AdjaxError(f"the checkpoint holds {key!r} twice, by both names of a weight-normed tensor")
        renamed[key] = value
    return renamed


def _misfit(name: str, array: Any, shape: Shape) -> list[str]:
    if not isinstance(array, np.ndarray):
        return [f"{name} is a {type(array).__name__}, but must be a tensor"]
    if array.shape != shape:
        return [f"{name} has shape {array.shape}, but must have {shape}"]
    return [] if array.dtype == np.float32 else [f"{name} is {array.dtype}, but must be float32"]


def insert(tree: dict[str, Any], path: TreePath, array: np.ndarray) -> None:
    """Puts a leaf into nested dicts."""
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = array


def _leaves(tree: Mapping[str, Any], path: TreePath = ()) -> Iterator[tuple[TreePath, np.ndarray]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), np.asarray(value)
