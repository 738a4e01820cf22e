"""PyTorch checkpoints read with numpy only, from files that nobody vouches for."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from adjax.errors import AdjaxError
from adjax.torch_port.unpickle import MAX_PICKLE_BYTES, Storage, StoredTensor, unpickle

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_MAX_DIRECTORY_BYTES = 1 << 22  # a training checkpoint's archive directory takes some 100 kB
_DAMAGED = (
    zipfile.BadZipFile,
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)


def read_checkpoint(path: Path, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """The dict in a checkpoint file as plain dicts, lists and scalars, with a numpy array for each tensor.

    `leave_out` names entries by their dotted keys ("optimizer", "model.discriminator"): they are dropped unread. Arrays
    are read-only and may share memory. Memory is bounded by a small multiple of the file's size, whatever it claims.
    Files of PyTorch before 1.6 need PyTorch itself; it is asked for weights only.
    Raises AdjaxError for anything that is not a whole, harmless checkpoint.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise AdjaxError(f"{path}: cannot be read: {error.strerror}") from None
    if start == _ZIP:
        return _read_zip(path, leave_out)
    if start[:1] == _PICKLE:
        return _read_legacy(path, leave_out)
    raise AdjaxError(f"{path}: is not a PyTorch checkpoint")


class _BoundedFile(io.BufferedReader):
    """A file that refuses to read more than `limit` bytes at once: the size of a zip's directory is only claimed."""

    limit = _MAX_DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        most = self.limit + 1
        data = super().read(most if size is None or size < 0 else min(size, most))
        if len(data) > self.limit:
            raise zipfile.BadZipFile("claims too large a directory")
        return data


def _read_zip(path: Path, leave_out: tuple[str, ...]) -> dict[str, Any]:
    size = path.stat().st_size
    try:
        with _BoundedFile(io.FileIO(path)) as file, zipfile.ZipFile(file) as archive:
            file.limit = size
            return _read_archive(archive, size, str(path), leave_out)
    except AdjaxError:
        raise
    except (*_DAMAGED, struct.error) as error:
        raise AdjaxError(f"{path}: is truncated or damaged ({error})".replace("\n", " ")) from None


def _read_archive(archive: zipfile.ZipFile, size: int, where: str, leave_out: tuple[str, ...]) -> dict[str, Any]:
    entries = {info.filename: info for info in archive.infolist()}
    if len(entries) != len(archive.infolist()):
        raise AdjaxError(f"{where}: refused: it holds two entries of one name")
    if any(i.compress_type != zipfile.ZIP_STORED or i.compress_size != i.file_size for i in entries.values()):
        raise AdjaxError(f"{where}: refused: it holds compressed entries, which PyTorch does not write")
    if sum(info.file_size for info in entries.values()) > size:
        raise AdjaxError(f"{where}: refused: its entries claim more bytes than the file has")
    roots = [name.removesuffix("data.pkl") for name in entries if name.split("/")[1:] == ["data.pkl"]]
    if len(roots) != 1:
        raise AdjaxError(f"{where}: is no PyTorch checkpoint: it must hold one data.pkl, but holds {len(roots)}")
    (root,) = roots
    if f"{root}byteorder" in entries and _read_small(archive, f"{root}byteorder", where) != b"little":
        raise AdjaxError(f"{where}: was written on a big-endian machine; save it again on a little-endian one")
    tree = unpickle(_read_small(archive, f"{root}data.pkl", where), where)
    storages: dict[str, bytes] = {}
    budget = 4 * size  # tensors may share a storage, but not so often that copies of them fill the memory

    def read_tensor(tensor: StoredTensor) -> np.ndarray:
        nonlocal budget
        storage = tensor.storage
        if storage.key not in storages:
            storages[storage.key] = _read_storage(archive, f"{root}data/{storage.key}", where)
        array = _view(storages[storage.key], storage, tensor, where)
        budget -= array.nbytes
        if budget < 0:
            raise AdjaxError(f"{where}: refused: its tensors share storages so often that they outgrow the file")
        return array

    return _resolve(tree, StoredTensor, read_tensor, leave_out, where)


def _read_small(archive: zipfile.ZipFile, name: str, where: str) -> bytes:
    if archive.getinfo(name).file_size > MAX_PICKLE_BYTES:
        raise AdjaxError(f"{where}: refused: its entry {name!r} has more than {MAX_PICKLE_BYTES} bytes")
    return archive.read(name)


def _read_storage(archive: zipfile.ZipFile, name: str, where: str) -> bytes:
    try:
        return archive.read(name)
    except KeyError:
        raise AdjaxError(f"{where}: lacks the storage {name[:100]!r} that its pickle refers to") from None


def _view(data: bytes, storage: Storage, tensor: StoredTensor, where: str) -> np.ndarray:
    dtype = np.dtype(storage.dtype)
    if len(data) != storage.count * dtype.itemsize:
        raise AdjaxError(
            f"{where}: the storage {storage.key[:40]!r} has {len(data)} bytes, but its pickle claims "
            f"{storage.count} elements of {dtype.itemsize}"
        )
    flat = np.frombuffer(data, dtype)[tensor.offset :]
    strides = [stride * dtype.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)


def _resolve(
    tree: Any, kind: type, read: Callable[[Any], np.ndarray], leave_out: tuple[str, ...], where: str
) -> dict[str, Any]:
    """`tree` with `read` applied to each leaf of type `kind`, in place and without recursion: it may hold cycles."""
    if not isinstance(tree, dict):
        raise AdjaxError(f"{where}: holds a {type(tree).__name__}, but a checkpoint is a dict")
    for path in leave_out:
        node = tree
        *parents, last = path.split(".")
        for parent in parents:
            child = node.get(parent)
            node = child if isinstance(child, dict) else {}
        node.pop(last, None)
    pending: list[dict[Any, Any] | list[Any]] = [tree]
    seen = {id(tree)}
    while pending:
        node = pending.pop()
        for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
            if isinstance(value, kind):
                node[key] = read(value)
            elif isinstance(value, dict | list) and id(value) not in seen:
                seen.add(id(value))
                pending.append(value)
    return tree


def _read_legacy(path: Path, leave_out: tuple[str, ...]) -> dict[str, Any]:
    try:
        import torch
    except ImportError:
        raise AdjaxError(
            f"{path}: was written by PyTorch before 1.6, which only PyTorch reads: install adjax[torch]"
        ) from None
    try:
        tree = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # the message is pages of advice on how to run the file's code
        raise AdjaxError(f"{path}: refused: it holds more than weights, or is damaged") from None
    except Exception as error:  # whatever PyTorch makes of a damaged file
        raise AdjaxError(f"{path}: PyTorch cannot read it ({type(error).__name__})") from None
    return _resolve(tree, torch.Tensor, lambda tensor: tensor.detach().numpy(), leave_out, str(path))
