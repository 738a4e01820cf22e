"""How a model's arrays lie in its file: types of less than float32, and what float32 arrays are made of them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adjax.errors import AdjaxError

SCALE, INPUTS, GAPS, LARGE = ".scale", ".inputs", ".gaps", ".large"
_NORMAL_MEDIAN = 0.6745  # of the magnitude of a normal variable of unit variance


@dataclass(frozen=True)
class Storage:
    """A way to store a model's arrays.

    With `steps`, the kernels of layers are rounded to integers of at most so much either side of 0, times a scale for
    each output channel, `by_input` of each input channel too, up to `limit` times the channel's spread (from the median
    of its magnitudes, which few large weights do not move). Weights beyond that are as good as all else, which is of
    `dtype`; a channel that mostly passes one input on has one. Kernels most of whose weights are 0 are not rounded.
    """

    dtype: str
    steps: int = 0
    limit: float = 0.0
    by_input: bool = False  # damped training moves the weights of those inputs least that matter most
    compressed: bool = False  # the file; codebooks are float16 in it


STORAGES = {
    "float32": Storage("float32"),
    "float16": Storage("float16"),
    "int8": Storage("float16", steps=127, limit=8.0),
    "sparse": Storage("float32", compressed=True),
    "sparse-int4": Storage("float32", steps=7, limit=4.0, by_input=True, compressed=True),
}


def stored(flat: Mapping[str, np.ndarray], storage: Storage) -> dict[str, np.ndarray]:
    """Arrays as they are written: of a rounded kernel int8, beside it under its name and a suffix what it is made of.

    `.scale` is float32[output channels], and `.inputs`, where steps differ by input, what it is multiplied by,
    float32[input channels]; where there are weights beyond the limit, `.large` holds them and `.gaps`
    (uint32) how far each lies, in the order of memory, from the one before, and the first from the beginning.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, array in flat.items():
        half = storage.compressed and name.startswith("codebook/")
        arrays[name] = array.astype(np.float16 if half else storage.dtype)
        if not storage.steps or not name.endswith("/kernel"):
            continue
        magnitudes = abs(array)
        if not np.median(magnitudes):
            continue
        exact = arrays[name]
        if storage.by_input:
            arrays[name + INPUTS] = factors = _input_spreads(magnitudes)
            array, magnitudes = array / factors[:, None], magnitudes / factors[:, None]
        inputs = tuple(range(array.ndim - 1))
        spread = np.median(magnitudes, axis=inputs) / _NORMAL_MEDIAN
        most = np.minimum(magnitudes.max(axis=inputs), storage.limit * spread)
        scale = (most / storage.steps).astype(np.float32)
        large = magnitudes > most
        positions = np.flatnonzero(large)
        if len(positions):
            arrays[name + GAPS] = np.diff(positions, prepend=0).astype(np.uint32)
            arrays[name + LARGE] = exact[large]
        arrays[name] = np.rint(np.where(large, 0, array) / np.where(scale > 0, scale, 1)).astype(np.int8)
        arrays[name + SCALE] = scale
    return arrays


def _input_spreads(magnitudes: np.ndarray) -> np.ndarray:
    """Median magnitude float32[input channels] of each input's weights; of those that have none, the others' median."""
    spreads = np.median(magnitudes, axis=(*range(magnitudes.ndim - 2), -1))
    return np.where(spreads > 0, spreads, np.median(spreads[spreads > 0])).astype(np.float32)


def restored(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `stored`: float32 arrays. AdjaxError for other types, what is not finite or does not fit."""
    rounded = [name for name, array in arrays.items() if array.dtype == np.int8]
    gaps = {name: array for name, array in arrays.items() if name.removesuffix(GAPS) in rounded and name not in rounded}
    flat: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if name in gaps:
            continue
        if array.dtype != np.int8 and not (np.issubdtype(array.dtype, np.floating) and np.isfinite(array).all()):
            raise AdjaxError(f"{path}: '{name}' is not an array of finite numbers")
        flat[name] = array.astype(np.float32)
    for name in rounded:
        scale = flat.pop(name + SCALE, None)
        if flat[name].ndim < 2:
            raise AdjaxError(f"{path}: '{name}' is int8, as kernels alone may be, and has fewer than two axes")
        if scale is None or scale.shape != flat[name].shape[-1:]:
            raise AdjaxError(f"{path}: '{name}' is int8 and needs '{name}{SCALE}', a number for each output channel")
        factors = flat.pop(name + INPUTS, np.ones(flat[name].shape[-2:-1], np.float32))
        if factors.shape != flat[name].shape[-2:-1]:
            raise AdjaxError(f"{path}: '{name}{INPUTS}' must be a number for each input channel of '{name}'")
        with np.errstate(over="ignore", invalid="ignore"):
            flat[name] *= scale
            flat[name] *= factors[:, None]
        if not np.isfinite(flat[name]).all():
            raise AdjaxError(f"{path}: '{name}' is not an array of finite numbers, times its scales")
        _put_large(path, name, flat, gaps.get(name + GAPS))
    return flat


def _put_large(path: Path, name: str, flat: dict[str, np.ndarray], gaps: np.ndarray | None) -> None:
    """Writes a rounded kernel's large weights over it."""
    large = flat.pop(name + LARGE, None)
    if large is None and gaps is None:
        return
    if large is None or gaps is None or gaps.dtype != np.uint32 or large.ndim != 1 or gaps.shape != large.shape:
        raise AdjaxError(f"{path}: '{name}{GAPS}' and '{name}{LARGE}' must be lists of equal length, the first uint32")
    positions = np.cumsum(gaps, dtype=np.uint64)
    if (gaps[1:] == 0).any() or (len(positions) and positions[-1] >= flat[name].size):
        raise AdjaxError(f"{path}: '{name}{GAPS}' goes beyond '{name}' or names a weight twice")
    flat[name].reshape(-1)[positions.astype(np.int64)] = large
