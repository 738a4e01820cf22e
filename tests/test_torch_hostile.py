"""Checkpoints made to harm: no code runs, no memory is claimed, every refusal is an AdjaxError.

Such a file comes from a stranger, so whatever its pickle and its archive say is a claim to be checked.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjax.errors import AdjaxError
from adjax.torch_port import read_checkpoint, write_checkpoint
from adjax.torch_port.unpickle import MAX_PICKLE_BYTES, unpickle
from tests.torch_files import archive, assert_same_arrays, small_checkpoint

TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
MEMORY = 200 << 20  # bytes; hostile files here are under 2 MB and claim gigabytes


def tensor_program(claimed: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """The pickle of {"t": tensor}, its storage "0" claimed to have `claimed` floats."""

    def number(n: int) -> bytes:
        return b"\x8a\x09" + n.to_bytes(9, "little", signed=True)

    def text(s: str) -> bytes:
        return b"X" + struct.pack("<I", len(s)) + s.encode()

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(claimed) + b"tQ"
    sizes = b"".join(b"(" + b"".join(map(number, ns)) + b"t" for ns in (shape, strides))
    return b"\x80\x02}" + text("t") + TENSOR + b"(" + storage + number(offset) + sizes + b"\x89}tRs."


def test_code_is_refused(tmp_path: Path) -> None:
    """A pickle can name any function; the machine has no way to import one, and says which was named."""

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    with pytest.raises(AdjaxError, match=r"'(posix|nt)\.mkdir'"):
        read_checkpoint(archive(tmp_path / "c.pkl", pickle.dumps({"model": Bomb()}, 2)))
    for program in (b"cbuiltins\neval\n.", b"ctorch\nload\n.", b"ccollections\nOrderedDict\nX\0\0\0\0\x85R."):
        with pytest.raises(AdjaxError):
            unpickle(b"\x80\x02" + program, "c.pkl")
    with pytest.raises(AdjaxError, match="opcode"):
        unpickle(b"\x80\x02ccollections\nOrderedDict\n)\x81.", "c.pkl")  # NEWOBJ
    with pytest.raises(AdjaxError, match="protocol 4"):
        unpickle(pickle.dumps({}, 4), "c.pkl")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ((4, 0, (5,), (1,)), "outside its storage"),
        ((4, 1, (4,), (1,)), "outside its storage"),
        ((4, 0, (2, 2), (1, 1 << 40)), "outside its storage"),
        ((4, 0, (1 << 30,), (0,)), "outside its storage"),  # a broadcast view: a copy would take gigabytes
        ((4, -1, (2,), (1,)), "do not fit"),
        ((4, 0, (2,), (-1,)), "do not fit"),
        ((4, 0, (2, 2), (1,)), "do not fit"),
        ((1 << 30, 0, (1 << 30,), (1,)), "has 16 bytes"),
        ((3, 0, (3,), (1,)), "has 16 bytes"),
    ],
)
def test_tensors_stay_inside_their_storage(tensor: tuple, message: str, tmp_path: Path) -> None:
    with pytest.raises(AdjaxError, match=message):
        read_checkpoint(archive(tmp_path / "c.pkl", tensor_program(*tensor), {"data/0": bytes(16)}))


def test_strided_and_empty_tensors(tmp_path: Path) -> None:
    data = np.arange(6, dtype=np.float32)
    program = tensor_program(6, 1, (2, 2), (1, 3))
    tree = read_checkpoint(archive(tmp_path / "c.pkl", program, {"data/0": data.tobytes()}))
    np.testing.assert_array_equal(tree["t"], [[1, 4], [2, 5]])
    tree = read_checkpoint(archive(tmp_path / "e.pkl", tensor_program(0, 0, (3, 0), (1, 1)), {"data/0": b""}))
    assert tree["t"].shape == (3, 0)
    with pytest.raises(AdjaxError, match="lacks the storage"):
        read_checkpoint(archive(tmp_path / "m.pkl", program))


def bomb_deflated(path: Path) -> None:
    archive(path, pickle.dumps({}, 2), {"data/0": bytes(1 << 24)}, zipfile.ZIP_DEFLATED)


def bomb_directory(path: Path) -> None:
    """Entries that claim more than the file has: sizes patched in the directory and the local header."""
    archive(path, pickle.dumps({}, 2), {"data/0": b"abcd"})
    data = path.read_bytes().replace(struct.pack("<II", 4, 4), struct.pack("<II", 1 << 31, 1 << 31))
    path.write_bytes(data)


def bomb_duplicate(path: Path) -> None:
    archive(path, pickle.dumps({}, 2), {"data/0": b"abcd", "data/1": b"abcd"})
    path.write_bytes(path.read_bytes().replace(b"data/1", b"data/0"))


def bomb_big_endian(path: Path) -> None:
    archive(path, pickle.dumps({}, 2), {"byteorder": b"big"})


def bomb_pickle(path: Path) -> None:
    archive(path, b"\x80\x02" + b"}" * MAX_PICKLE_BYTES)


def bomb_deep(path: Path) -> None:
    """Nested tuples as a dict's key: their hash recurses in C."""
    archive(path, b"\x80\x02})" + b"\x85" * 100_000 + b"Ns.")


def bomb_shared(path: Path) -> None:
    """One storage behind many tensors: copies of them would fill the memory."""
    tensor = tensor_program(25_000, 0, (25_000,), (1,)).split(b"t" + TENSOR)[1][:-2]
    items = b"".join(b"K" + bytes([i]) + TENSOR + tensor for i in range(50))
    archive(path, b"\x80\x02}(" + items + b"u.", {"data/0": bytes(100_000)})


def bomb_copies(path: Path) -> None:
    """A Counter of a large dict, called again and again: each must not be a copy."""
    large = b"}(" + b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(50_000)) + b"u\x85q\x01"
    archive(path, b"\x80\x02](" + large + b"ccollections\nCounter\nh\x01R" * 200 + b"e.")


BOMBS = (
    bomb_deflated,
    bomb_directory,
    bomb_duplicate,
    bomb_big_endian,
    bomb_pickle,
    bomb_deep,
    bomb_shared,
    bomb_copies,
)


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.__name__)
def test_bombs(bomb: Callable[[Path], None], tmp_path: Path) -> None:
    """Whatever a small file claims, it is refused in one line and in memory of the order of its pickle."""
    bomb(tmp_path / "c.pkl")
    tracemalloc.start()
    try:
        with pytest.raises(AdjaxError) as caught:
            read_checkpoint(tmp_path / "c.pkl")
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "c.pkl") in str(caught.value)


def test_cyclic_and_shared_objects(tmp_path: Path) -> None:
    """The memo can make a list hold itself, and 2^60 paths out of 60 objects: each is visited once."""
    program = b"\x80\x02}q\x00X\x01\x00\x00\x00a]q\x01h\x01as" + b"X\x01\x00\x00\x00b]N" + b"a" + b"s."
    tree = read_checkpoint(archive(tmp_path / "c.pkl", program))
    assert tree["a"][0] is tree["a"]
    program = b"\x80\x02}X\x01\x00\x00\x00a" + nested(60) + b"s."
    tree = read_checkpoint(archive(tmp_path / "d.pkl", program))
    assert len(tree["a"]) == 2


def nested(levels: int) -> bytes:
    """Opcodes of a list that holds one list twice, which holds one list twice, and so on."""
    inner = b"]"
    for i in range(levels):
        inner = b"](" + inner + b"q" + bytes([i]) + b"h" + bytes([i]) + b"e"
    return inner


def test_truncated_files(tmp_path: Path) -> None:
    whole, path = small_checkpoint(tmp_path / "small.pkl").read_bytes(), tmp_path / "cut.pkl"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(AdjaxError):
            read_checkpoint(path)
    for path in (tmp_path, tmp_path / "none.pkl"):
        with pytest.raises(AdjaxError, match="cannot be read"):
            read_checkpoint(path)


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_flipped_bytes(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A changed byte gives the same checkpoint, where it meant nothing, or an AdjaxError: every entry has a CRC."""
    folder = tmp_path_factory.getbasetemp()
    path, state = folder / "flipped.pkl", {"w": np.arange(6, dtype=np.float32), "steps": 3}
    write_checkpoint(path, state)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    try:
        tree = read_checkpoint(path)
    except AdjaxError:
        return
    assert_same_arrays({"w": tree["w"]}, {"w": state["w"]})


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_mutated_pickles(data: st.DataObject) -> None:
    """Without a CRC in the way: whatever the opcodes say, the machine ends in an object or an AdjaxError."""
    state = {"t": OrderedDict(a=1, b=(2.5, None)), "milestones": Counter([1]), "l": [True, -7]}
    program = bytearray(data.draw(st.sampled_from([pickle.dumps(state, 2), tensor_program(6, 1, (2, 2), (1, 3))])))
    for _ in range(data.draw(st.integers(1, 4))):
        i = data.draw(st.integers(0, len(program) - 1))
        program[i : i + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    with contextlib.suppress(AdjaxError):
        unpickle(bytes(program), "c.pkl")
