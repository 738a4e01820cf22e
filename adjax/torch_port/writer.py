"""PyTorch checkpoints written without PyTorch, such that `torch.load(path, weights_only=True)` opens them."""

from __future__ import annotations

import os
import struct
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from adjax.errors import AdjaxError
from adjax.torch_port.unpickle import STORAGES

_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal checkpoints are equal files
_STORAGE_NAMES = {dtype: name for name, dtype in STORAGES.items()}


def write_checkpoint(path: Path, tree: dict[str, Any]) -> None:
    """Writes nested dicts, lists, tuples and scalars, with numpy arrays as tensors, to a zip checkpoint.

    An OrderedDict stays one (state dicts are), and so does a Counter (milestones). The file is written beside its place
    and renamed.
    Raises AdjaxError where it cannot be written, TypeError for a value that a checkpoint cannot hold.
    """
    arrays: list[np.ndarray] = []
    entries = {"data.pkl": b"\x80\x02" + _pickle(tree, arrays) + b".", "byteorder": b"little", "version": b"3\n"}

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, data in entries.items():
                archive.writestr(zipfile.ZipInfo(f"{path.stem}/{name}", _EPOCH), data)
            for i, array in enumerate(arrays):
                archive.writestr(zipfile.ZipInfo(f"{path.stem}/data/{i}", _EPOCH), array.tobytes())

    write_in_place(path, write)


def write_in_place(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Lets `write` fill a file beside `path`, then renames it: nothing half-written is ever found at `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with open(temporary, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise AdjaxError(f"{path}: cannot be written: {error.strerror}") from None


def _pickle(value: Any, arrays: list[np.ndarray]) -> bytes:
    """Opcodes that push `value`; the arrays in it are appended to `arrays`, each as a storage of its own."""
    if isinstance(value, np.ndarray):
        return _pickle_tensor(value, arrays)
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode("utf-8")
        return b"X" + struct.pack("<I", len(data)) + data
    if isinstance(value, tuple):
        return b"(" + b"".join(_pickle(item, arrays) for item in value) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(_pickle(item, arrays) for item in value) + b"e"
    if isinstance(value, dict):
        items = b"".join(_pickle(item, arrays) for pair in value.items() for item in pair)
        if isinstance(value, Counter):
            return b"ccollections\nCounter\n}(" + items + b"u\x85R"
        new = b"ccollections\nOrderedDict\n)R" if isinstance(value, OrderedDict) else b"}"
        return new + b"(" + items + b"u"
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _pickle_tensor(array: np.ndarray, arrays: list[np.ndarray]) -> bytes:
    array = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    storage = _STORAGE_NAMES.get(array.dtype.str)
    if storage is None:
        raise TypeError(f"a checkpoint cannot hold an array of {array.dtype}")
    key = str(len(arrays))
    arrays.append(array)
    strides = tuple(int(stride) // array.itemsize for stride in array.strides)
    return b"".join(
        [
            b"ctorch._utils\n_rebuild_tensor_v2\n((",
            _pickle("storage", arrays),
            f"ctorch\n{storage}\n".encode(),
            *(_pickle(item, arrays) for item in (key, "cpu", array.size)),
            b"tQ",  # the persistent id, a tuple, gives the storage
            *(_pickle(item, arrays) for item in (0, array.shape, strides, False, OrderedDict())),
            b"tR",
        ]
    )
