"""The pickle of a PyTorch checkpoint, read by a small machine that knows data and tensors and can call nothing else.

Python's own unpickler calls what the file names. This one has no imports, attributes or calls: the opcodes that
PyTorch writes (protocol 2) build plain dicts, lists, tuples and scalars, and the allowed globals are names that the
machine gives a meaning to.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from adjax.errors import AdjaxError

MAX_PICKLE_BYTES = 1 << 20  # a training checkpoint with optimizers takes some 100 kB

STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}


class Storage(NamedTuple):
    """A storage that the pickle refers to."""

    dtype: str
    key: str
    count: int


class StoredTensor(NamedTuple):
    """A tensor that has not been read yet: a strided view of a storage, in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Global:
    """An allowed global, by its name; it is never imported."""

    name: str


class _Refused(Exception):
    """Something well formed that must not be in a checkpoint."""


def unpickle(data: bytes, where: str) -> Any:
    """The object in `data`, a protocol 2 pickle, with a `StoredTensor` for each tensor.

    OrderedDict and Counter become plain dicts. Memory is bounded by a small multiple of the pickle's size.
    Raises AdjaxError, starting with `where`, for a damaged pickle and for one that names any other global.
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise AdjaxError(f"{where}: its pickle has {len(data)} bytes; a checkpoint's has at most {MAX_PICKLE_BYTES}")
    machine = _Machine(data)
    try:
        return machine.run()
    except _Refused as error:
        raise AdjaxError(f"{where}: {error}") from None
    except (IndexError, KeyError, OverflowError, TypeError, ValueError, struct.error) as error:
        raise AdjaxError(
            f"{where}: its pickle is damaged at byte {machine.position} ({type(error).__name__})"
        ) from None


class _Machine:
    """A pickle machine: the opcode handlers below, the stack of the innermost mark, and the memo."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        while True:
            opcode = self.take(1)
            if opcode == b".":
                if self.marks or len(self.stack) != 1:
                    raise ValueError("objects left on the stack")
                return self.stack[0]
            handler = _OPCODES.get(opcode)
            if handler is None:
                raise _Refused(f"its pickle uses the opcode {opcode!r}, which PyTorch does not write")
            handler(self)

    def take(self, count: int) -> bytes:
        start = self.position
        if count > len(self.data) - start:
            raise ValueError("truncated")
        self.position = start + count
        return self.data[start : self.position]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        end = self.data.index(b"\n", self.position)
        text = self.data[self.position : end].decode("utf-8")
        self.position = end + 1
        return text

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        return self.stack.pop()

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def pop_tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError("an empty stack")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError("items of no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int | float):  # the hash of a deeply nested tuple would overflow the C stack
                raise TypeError("a key that is neither text nor number")
            target[key] = value

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise TypeError("items of no list")
        target.extend(items)

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def find_global(self) -> None:
        module, name = self.line(), self.line()
        full = f"{module}.{name}"
        if full not in _CALLS and not (module == "torch" and name in STORAGES):
            raise _Refused(f"refused: its pickle names {full[:100]!r}, which is no part of a checkpoint's data")
        self.push(_Global(full))

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Global) or not isinstance(arguments, tuple) or function.name not in _CALLS:
            raise TypeError("a call of something that is no function")
        self.push(_CALLS[function.name](arguments))

    def build(self) -> None:
        self.pop()  # an OrderedDict's attributes: a state dict's `_metadata`, which holds no weights
        if not isinstance(self.stack[-1], dict):
            raise TypeError("attributes of something that is no OrderedDict")

    def find_storage(self) -> None:
        kind, storage_type, key, _, count = self.pop()
        if kind != "storage" or not isinstance(storage_type, _Global) or not isinstance(key, str):
            raise TypeError("a persistent id that is no storage")
        name = storage_type.name.removeprefix("torch.")
        if not _is_index(count):
            raise ValueError("a storage's size")
        self.push(Storage(STORAGES[name], key, count))


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 1 << 48


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:  # PyTorch fills it by opcodes
        raise TypeError("arguments of OrderedDict")
    return {}


def _counter(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    (counts,) = arguments
    if not isinstance(counts, dict):
        raise TypeError("arguments of Counter")
    return counts


def _parameter(arguments: tuple[Any, ...]) -> StoredTensor:
    if not isinstance(arguments[0], StoredTensor):
        raise TypeError("a parameter that is no tensor")
    return arguments[0]


def _tensor(arguments: tuple[Any, ...]) -> StoredTensor:
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise TypeError("a tensor without storage, shape or strides")
    if len(shape) != len(strides) or len(shape) > 8 or not all(map(_is_index, (offset, *shape, *strides))):
        raise _Refused("refused: a tensor's shape and strides do not fit each other")
    elements = math.prod(shape)
    if elements == 0 and math.prod(n for n in shape if n) < 1 << 31:  # numpy refuses more, and there is nothing to read
        return StoredTensor(storage, 0, shape, (0,) * len(shape))
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if last >= storage.count or elements > storage.count:
        raise _Refused(
            f"refused: a tensor of shape {shape} reaches outside its storage {storage.key[:40]!r} "
            f"of {storage.count} elements"
        )
    return StoredTensor(storage, offset, shape, strides)


_CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "collections.Counter": _counter,  # milestones of MultiStepLR
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_tensor_v2": _tensor,
}

_OPCODES: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": lambda m: _protocol(m.number("B")),
    b"(": _Machine.mark,
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"J": lambda m: m.push(m.number("<i")),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"\x8a": lambda m: m.push(int.from_bytes(m.take(m.number("B")), "little", signed=True)),
    b"G": lambda m: m.push(m.number(">d")),
    b"X": lambda m: m.push(m.take(m.number("<I")).decode("utf-8")),
    b"}": lambda m: m.push({}),
    b"]": lambda m: m.push([]),
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(tuple(m.pop_to_mark())),
    b"\x85": lambda m: m.pop_tuple(1),
    b"\x86": lambda m: m.pop_tuple(2),
    b"\x87": lambda m: m.pop_tuple(3),
    b"a": lambda m: m.extend([m.pop()]),
    b"e": lambda m: m.extend(m.pop_to_mark()),
    b"s": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    b"u": lambda m: m.set_items(m.pop_to_mark()),
    b"q": lambda m: m.put(m.number("B")),
    b"r": lambda m: m.put(m.number("<I")),
    b"h": lambda m: m.push(m.memo[m.number("B")]),
    b"j": lambda m: m.push(m.memo[m.number("<I")]),
    b"c": _Machine.find_global,
    b"R": _Machine.call,
    b"b": _Machine.build,
    b"Q": _Machine.find_storage,
}


def _protocol(version: int) -> None:
    if version != 2:
        raise _Refused(f"its pickle has protocol {version}, but PyTorch writes protocol 2")
