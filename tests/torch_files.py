"""Files in PyTorch's format and the comparison of what is in them, for the tests of adjax.torch_port."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np

from adjax.torch_port import Row, write_checkpoint


def assert_same_arrays(a: dict, b: dict) -> None:
    assert list(a) == list(b)
    for key, x in a.items():
        y = b[key]
        if isinstance(x, dict):
            assert_same_arrays(x, y)
        else:
            assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()), key


def archive(path: Path, program: bytes, entries: dict[str, bytes] | None = None, compression: int = 0) -> Path:
    """Writes a zip archive as PyTorch lays it out, around the given pickle."""
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in {"data.pkl": program, **(entries or {})}.items():
            file.writestr(f"c/{name}", data)
    return path


def small_checkpoint(path: Path) -> Path:
    """Writes a checkpoint of a few hundred bytes with each kind of entry, and returns its path."""
    state = OrderedDict(weight=np.arange(6, dtype=np.float32).reshape(2, 3), count=np.array(7))
    write_checkpoint(path, {"model": {"generator": state}, "steps": 3, "rate": 0.5, "betas": (0.5, 0.9), "none": None})
    return path


def counted(rows: list[Row]) -> dict[str, np.ndarray]:
    """A state dict in which no two numbers are equal; its buffers are zeros. Rows with groups are concatenated."""
    state: dict[str, np.ndarray] = {}
    start = 1
    for row in rows:
        size = int(np.prod(row.shape))
        tensor = np.arange(start, start + size, dtype=np.float32).reshape(row.shape)
        start += size
        if row.path is None:
            tensor = np.zeros_like(tensor)
        state[row.key] = np.concatenate([state[row.key], tensor]) if row.part else tensor
    return state
