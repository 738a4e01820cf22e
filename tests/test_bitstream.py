"""The bitstream: what is written comes back, and what is damaged is never passed off as whole."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjax.bitstream import (
    END_BYTES,
    HEADER_BYTES,
    MAX_NAME_BYTES,
    BitstreamError,
    Block,
    Header,
    Reader,
    Writer,
    check_model,
    default_frames_per_block,
    pack_codes,
    packed_bytes,
    short_name,
    unpack_codes,
)
from adjax.errors import AdjaxError

DOCUMENT = (Path(__file__).parents[1] / "docs" / "bitstream.md").read_text(encoding="utf-8")
TINY_CODES = np.array([[[0, 1], [513, 1023], [7, 42]]], np.int32)
UNKNOWN: dict[str, Any] = {"frames": None, "samples": None}
BOTH_LENGTHS = pytest.mark.parametrize("unknown", [False, True], ids=["known length", "unknown length"])


def tiny_header(**changes: Any) -> Header:
    values: dict[str, Any] = {
        "sample_rate_hz": 48000,
        "input_sample_rate_hz": 44100,
        "channels": 1,
        "streams": 1,
        "codebooks": 2,
        "codebook_size": 1024,
        "hop_samples": 300,
        "frames_per_block": 2,
        "frames": 3,
        "samples": 800,
        "fingerprint": bytes(range(0xA0, 0xA8)),
        "name": "tiny",
    }
    return Header(**(values | changes))


def random_codes(header: Header, frames: int, seed: int = 0) -> np.ndarray:
    shape = (header.streams, frames, header.codebooks)
    return np.random.default_rng(seed).integers(0, header.codebook_size, shape).astype(np.int32)


def written(header: Header, codes: np.ndarray, samples: int | None = None, cuts: tuple[int, ...] = ()) -> bytes:
    file = io.BytesIO()
    with Writer(file, header) as writer:
        for part in np.split(codes, cuts, axis=1):
            writer.write(part)
        writer.close(samples)
    return file.getvalue()


def small_file(unknown: bool) -> tuple[Header, np.ndarray, bytes]:
    """Two streams, 8 frames in blocks of 3, 5 codes of which 3 bits can say 8: every kind of record and of padding."""
    length = UNKNOWN if unknown else {"frames": 8, "samples": 2100}
    header = tiny_header(channels=2, streams=2, codebooks=3, codebook_size=5, frames_per_block=3, **length)
    codes = random_codes(header, 8)
    return header, codes, written(header, codes, 2100)


def joined(blocks: list[Block]) -> np.ndarray:
    """The codes of blocks of `small_file`, none of which may be damaged."""
    parts = [np.empty((2, 0, 3), np.int32)]
    for block in blocks:
        assert block.error is None
        assert block.codes is not None
        parts.append(block.codes)
    return np.concatenate(parts, axis=1)


def reseal(data: bytes, header: Header, index: int) -> bytes:
    """`data` with the checksum of block `index` made right again, as someone with bad intent would."""
    start, end = header.block_offset(index), header.block_offset(index + 1)
    covered = data[HEADER_BYTES - 4 : HEADER_BYTES] + struct.pack("<I", index) + data[start : end - 4]
    return data[: end - 4] + struct.pack("<I", google_crc32c.value(covered)) + data[end:]


# --------------------------------------------------------------------------------------------------------- packing


@settings(deadline=None, max_examples=200)
@given(bits=st.integers(1, 16), count=st.integers(0, 70), seed=st.integers(0, 2**32 - 1))
def test_packed_codes_are_their_bits_in_order(bits: int, count: int, seed: int) -> None:
    """Packing is defined as writing each code's binary digits one after the other, which strings do without tricks."""
    codes = np.random.default_rng(seed).integers(0, 1 << bits, count).astype(np.int32)
    data = pack_codes(codes, bits)
    digits = "".join(f"{code:0{bits}b}" for code in codes)
    assert data == bytes(int(digits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(digits), 8))
    back = unpack_codes(data, count, bits)
    assert back.dtype == np.int32
    np.testing.assert_array_equal(back, codes)


@settings(deadline=None, max_examples=100)
@given(size=st.integers(2, 65536), frames=st.integers(0, 9), seed=st.integers(0, 2**32 - 1))
def test_every_codebook_size_comes_back(size: int, frames: int, seed: int) -> None:
    """ceil(log2 size) bits hold every code of a codebook, the largest included."""
    header = tiny_header(codebook_size=size, frames=frames, samples=0)
    codes = random_codes(header, frames, seed)
    codes[..., -1] = size - 1
    np.testing.assert_array_equal(Reader(io.BytesIO(written(header, codes))).read_all(), codes)


def test_packing_refuses_what_does_not_fit() -> None:
    """A code with more bits than it is given would spill into its neighbour."""
    for codes in ([4], [-1]):
        with pytest.raises(BitstreamError, match="2 bits hold 0 to 3"):
            pack_codes(np.array(codes, np.int32), 2)
    with pytest.raises(BitstreamError, match="1 to 16"):
        pack_codes(np.array([0]), 17)
    with pytest.raises(BitstreamError, match="which take 2"):
        unpack_codes(b"\0", 1, 10)
    with pytest.raises(BitstreamError, match="padding"):
        unpack_codes(b"\0\1", 1, 10)


# ------------------------------------------------------------------------------------------------- writer and reader


@settings(deadline=None, max_examples=100)
@given(
    streams=st.integers(1, 3),
    codebooks=st.integers(1, 4),
    size=st.sampled_from([2, 3, 5, 1000, 1024, 65536]),
    frames=st.integers(0, 23),
    per_block=st.integers(1, 9),
    unknown=st.booleans(),
    cuts=st.lists(st.integers(0, 23), max_size=5),
)
def test_chunking_of_writes_leaves_no_trace(
    streams: int, codebooks: int, size: int, frames: int, per_block: int, unknown: bool, cuts: list[int]
) -> None:
    """Blocks are cut by frame number alone, so the bytes cannot depend on how the frames arrived."""
    header = tiny_header(
        channels=streams, streams=streams, codebooks=codebooks, codebook_size=size, frames_per_block=per_block
    )
    header = dataclasses.replace(header, **(UNKNOWN if unknown else {"frames": frames, "samples": 0}))
    codes = random_codes(header, frames)
    data = written(header, codes)
    assert written(header, codes, cuts=tuple(sorted(min(cut, frames) for cut in cuts))) == data
    reader = Reader(io.BytesIO(data))
    assert reader.header == header
    assert reader.frames == frames
    assert reader.payload_bits == frames * header.bits_per_frame
    blocks = list(reader.blocks())
    assert len(blocks) == reader.block_count == -(-frames // per_block)
    assert [block.first_frame for block in blocks] == list(range(0, frames, per_block))
    np.testing.assert_array_equal(reader.read_all(), codes)


@BOTH_LENGTHS
def test_length_and_rate_of_the_input_come_back(unknown: bool) -> None:
    """The decoder must cut its output to the input's length, which is no multiple of anything it knows."""
    _, codes, data = small_file(unknown)
    reader = Reader(io.BytesIO(data))
    assert (reader.samples, reader.frames) == (2100, 8)
    assert reader.duration_s == 2100 / 44100
    np.testing.assert_array_equal(reader.read_all(), codes)


@BOTH_LENGTHS
def test_seeking_gives_the_blocks_from_there(unknown: bool) -> None:
    """A block's place follows from the header, so reading from block i equals reading all and dropping i blocks."""
    _, codes, data = small_file(unknown)
    reader = Reader(io.BytesIO(data))
    for index in range(reader.block_count + 1):
        reader.seek_block(index)
        np.testing.assert_array_equal(joined(list(reader.blocks())), codes[:, 3 * index :])
    with pytest.raises(BitstreamError, match="no block 4"):
        reader.seek_block(4)


def test_writer_refuses_what_the_header_does_not_say() -> None:
    """A file that breaks its own header's promise would be unreadable, so it must not come into being."""
    writer = Writer(io.BytesIO(), tiny_header())
    for wrong in (TINY_CODES[0], TINY_CODES[:, :, :1], np.repeat(TINY_CODES, 2, axis=0), TINY_CODES.astype(float)):
        with pytest.raises(BitstreamError, match=r"must be int32\[1, frames, 2\]"):
            writer.write(wrong)
    for wrong in (TINY_CODES - 1, TINY_CODES + 1):
        with pytest.raises(BitstreamError, match="must be 0 to 1023"):
            writer.write(wrong)
    writer.write(TINY_CODES[:, :2])
    with pytest.raises(BitstreamError, match="the header says 3"):
        writer.close()
    with pytest.raises(BitstreamError, match="4 frames written"):
        writer.write(TINY_CODES[:, :2])
    writer.write(TINY_CODES[:, 2:])
    writer.close()
    with pytest.raises(BitstreamError, match="closed"):
        writer.write(TINY_CODES[:, :0])
    with pytest.raises(BitstreamError, match="samples"):
        Writer(io.BytesIO(), tiny_header(**UNKNOWN)).close(10**6)


def test_an_error_leaves_the_file_unfinished() -> None:
    """An end record after a failure would pass half a recording off as a whole one."""
    file = io.BytesIO()
    with contextlib.suppress(KeyError), Writer(file, tiny_header(**UNKNOWN)) as writer:
        writer.write(TINY_CODES)
        raise KeyError
    with pytest.raises(BitstreamError, match="truncated"):
        Reader(file).read_all()


def test_overhead_stays_under_one_percent() -> None:
    """The bound of the format: 10 s at 12.8 kbps with the longest name and fingerprint, also with a frame for delay."""
    for unknown in (False, True):
        for frames in (1600, 1601):
            length = UNKNOWN if unknown else {"frames": frames, "samples": 441000}
            header = tiny_header(
                codebooks=8,
                frames_per_block=default_frames_per_block(48000, 300, 1, 8),
                fingerprint=bytes(16),
                name="x" * MAX_NAME_BYTES,
                **length,
            )
            data = written(header, random_codes(header, frames), 441000)
            payload_bytes = frames * 80 // 8
            assert len(header.to_bytes()) == HEADER_BYTES < 100
            assert len(data) - payload_bytes < payload_bytes / 100
            assert frames > 1600 or len(data) - payload_bytes < 160


@settings(deadline=None)
@given(
    rate=st.integers(1, 1_000_000),
    hop=st.integers(1, 65535),
    streams=st.integers(1, 255),
    codebooks=st.integers(1, 255),
)
def test_default_block_is_always_allowed(rate: int, hop: int, streams: int, codebooks: int) -> None:
    """Whatever the model, the default must give a header that can be written."""
    frames = default_frames_per_block(rate, hop, streams, codebooks)
    tiny_header(channels=streams, streams=streams, codebooks=codebooks, frames_per_block=frames)


# --------------------------------------------------------------------------------------------------------- damage


@BOTH_LENGTHS
def test_every_truncation_is_an_error(unknown: bool) -> None:
    """The length in the header, or the end record, says where a file ends: no shorter file can be complete."""
    _, codes, data = small_file(unknown)
    for length in range(len(data)):
        file = io.BytesIO(data[:length])
        if length < HEADER_BYTES:
            with pytest.raises(BitstreamError, match="byte"):
                Reader(file)
            continue
        reader = Reader(file)
        with pytest.raises(BitstreamError, match=f"byte {length}: truncated"):
            reader.read_all()
        reader.seek_block(0)
        first = 0
        for block in reader.blocks():  # whole blocks stay readable, and nothing is made up
            assert block.error is None
            np.testing.assert_array_equal(block.codes, codes[:, first : first + block.frames])
            first += block.frames


@BOTH_LENGTHS
def test_every_changed_byte_is_an_error(unknown: bool) -> None:
    """Checksums cover every byte and CRC-32C finds every change within 32 bits; no change may pass, none may crash."""
    _, codes, data = small_file(unknown)
    for position in range(len(data)):
        for change in (0x01, 0x10, 0x80, 0xFF, data[position] ^ (data[position] + 1) % 256):
            damaged = bytearray(data)
            damaged[position] ^= change
            with pytest.raises(BitstreamError):
                Reader(io.BytesIO(damaged)).read_all()
            if position < HEADER_BYTES:
                continue
            found = 0
            for block in Reader(io.BytesIO(damaged)).blocks():
                if block.codes is not None:
                    expected = codes[:, block.first_frame : block.first_frame + block.frames]
                    np.testing.assert_array_equal(block.codes, expected)
                    found += block.frames
            assert found >= 8 - 3  # at most the block that was hit


@BOTH_LENGTHS
def test_damage_loses_one_block_and_is_named(unknown: bool) -> None:
    """Blocks lie at places that the header gives, so a reader finds the next one whatever happened to this one."""
    header, codes, data = small_file(unknown)
    for index in range(3):
        start = header.block_offset(index)
        end = min(header.block_offset(index + 1), header.end_offset(8))
        damaged = data[:start] + bytes(255 - byte for byte in data[start:end]) + data[end:]
        reader = Reader(io.BytesIO(damaged))
        blocks = list(reader.blocks())
        assert [block.error is not None for block in blocks] == [i == index for i in range(3)]
        for block in blocks:
            if block.codes is not None:
                np.testing.assert_array_equal(block.codes, codes[:, 3 * block.index : 3 * block.index + 3])
        assert blocks[index].byte_offset == start
        with pytest.raises(BitstreamError, match=rf"byte {start}: block {index} \(frames {3 * index} to"):
            reader.read_all()


@BOTH_LENGTHS
def test_bytes_behind_the_end_are_an_error(unknown: bool) -> None:
    """Something appended is something unexplained; the error names the first byte of it."""
    _, codes, data = small_file(unknown)
    for extra in (b"\0", b"\0" * 200, data[HEADER_BYTES:]):
        reader = Reader(io.BytesIO(data + extra))
        np.testing.assert_array_equal(joined(list(reader.blocks())), codes)
        for call in (reader.check_complete, Reader(io.BytesIO(data + extra)).read_all):
            with pytest.raises(BitstreamError, match=f"byte {len(data)}: {len(extra)} bytes behind"):
                call()


def test_moved_and_foreign_blocks_do_not_pass() -> None:
    """Their own bytes are whole, so only a checksum that covers index and header can tell."""
    header, _, data = small_file(False)
    first, second, third = (header.block_offset(i) for i in range(3))
    swapped = data[:first] + data[second:third] + data[first:second] + data[third:]
    with pytest.raises(BitstreamError, match="block 0"):
        Reader(io.BytesIO(swapped)).read_all()
    other = dataclasses.replace(header, fingerprint=bytes(8)).to_bytes() + data[HEADER_BYTES:]
    with pytest.raises(BitstreamError, match="block 0"):
        Reader(io.BytesIO(other)).read_all()


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [(0, 2, "says 2 frames where 3 belong"), (2, 0xFF, "code 7 in a codebook of 5"), (8, 0x03, "padding")],
)
def test_a_valid_checksum_does_not_excuse_invalid_content(offset: int, value: int, message: str) -> None:
    """A checksum finds accidents; content made on purpose must still be checked, as codes index codebooks."""
    header, _, data = small_file(False)
    crafted = bytearray(data)
    crafted[header.block_offset(1) + offset] = value
    with pytest.raises(BitstreamError, match=message):
        Reader(io.BytesIO(reseal(bytes(crafted), header, 1))).read_all()


@pytest.mark.parametrize(
    ("frames", "samples", "message"),
    [(7, 1800, "no valid end record"), (9, 2100, "no valid end record"), (8, 10**12, "end record: header: samples")],
)
def test_an_end_record_must_fit_the_file(frames: int, samples: int, message: str) -> None:
    """Frames that are not there, or sound without frames, would be made up by the decoder."""
    _, _, data = small_file(True)
    record = struct.pack("<HIQ", 0, frames, samples)
    covered = data[HEADER_BYTES - 4 : HEADER_BYTES] + struct.pack("<I", 3) + record
    crafted = data[:-END_BYTES] + record + struct.pack("<I", google_crc32c.value(covered))
    with pytest.raises(BitstreamError, match=message):
        Reader(io.BytesIO(crafted)).read_all()


def test_nothing_is_read_behind_a_short_block() -> None:
    """A short block is the last one: with the end record gone, what follows is not a block, be it ever so long."""
    _, codes, data = small_file(True)
    reader = Reader(io.BytesIO(data[:-1] + bytes(200)))
    np.testing.assert_array_equal(joined(list(reader.blocks())), codes)
    with pytest.raises(BitstreamError, match="no valid end record"):
        reader.check_complete()


@settings(deadline=None, max_examples=300)
@given(data=st.binary(max_size=300), prefix=st.integers(0, 120), unknown=st.booleans())
def test_random_bytes_never_crash(data: bytes, prefix: int, unknown: bool) -> None:
    """Anything that is not exactly what was written is a BitstreamError, never another exception."""
    _, codes, good = small_file(unknown)
    mixed = good[:prefix] + data
    try:
        reader = Reader(io.BytesIO(mixed))
        for block in reader.blocks():
            assert (block.codes is None) != (block.error is None)
        result = reader.read_all()
    except BitstreamError:
        assert mixed != good
    else:
        assert mixed == good
        np.testing.assert_array_equal(result, codes)


# ---------------------------------------------------------------------------------------------------------- header


@pytest.mark.parametrize(
    "changes",
    [
        {"sample_rate_hz": 0},
        {"sample_rate_hz": 1_000_001},
        {"input_sample_rate_hz": 0},
        {"channels": 0},
        {"channels": 256},
        {"streams": 0},
        {"streams": 2},
        {"codebooks": 0},
        {"codebooks": 256},
        {"codebook_size": 1},
        {"codebook_size": 65537},
        {"hop_samples": 0},
        {"frames_per_block": 0},
        {"frames_per_block": 65535, "codebooks": 255},
        {"fingerprint": bytes(7)},
        {"fingerprint": bytes(17)},
        {"name": "x" * 21},
        {"name": "a\nb"},
        {"name": "\ud800"},
        {"frames": None},
        {"samples": None},
        {"frames": 2**32 - 1},
        {"samples": 10**15},
    ],
)
def test_header_fields_out_of_range_are_named(changes: dict[str, Any]) -> None:
    """Each field has the range that the document gives; the message must lead to the field."""
    with pytest.raises(BitstreamError, match=r"header: \w+"):
        tiny_header(**changes)


def test_other_files_and_versions_are_told_apart() -> None:
    """The user's remedy differs: another file, a newer program, another copy."""
    data = tiny_header().to_bytes()
    for wrong in (b"", b"RIFF", b"RIFF" + data[4:], b"AD "):
        with pytest.raises(BitstreamError, match=r"not an \.adjx file"):
            Reader(io.BytesIO(wrong))
    with pytest.raises(BitstreamError, match="version 2 of the format"):
        Reader(io.BytesIO(data[:4] + b"\2" + data[5:]))
    with pytest.raises(BitstreamError, match="byte 75: truncated in the header"):
        Reader(io.BytesIO(data[:-1]))
    with pytest.raises(BitstreamError, match=r"header \(bytes 0 to 75\) is damaged"):
        Reader(io.BytesIO(data[:-1] + b"\0"))


@settings(deadline=None, max_examples=300)
@given(
    fields=st.binary(min_size=HEADER_BYTES - 9, max_size=HEADER_BYTES - 9),
    spots=st.dictionaries(st.integers(5, HEADER_BYTES - 5), st.sampled_from([0, 1, 4, 0x7F, 0xFE, 0xFF]), max_size=6),
    whole=st.booleans(),
)
def test_hostile_headers_are_refused_in_little_memory(fields: bytes, spots: dict[int, int], whole: bool) -> None:
    """A right checksum over wrong lengths: what a file does not hold must not be asked of memory."""
    raw = bytearray(tiny_header().to_bytes()[:-4])
    if whole:
        raw[5:] = fields
    for position, value in spots.items():
        raw[position] = value
    data = bytes(raw) + struct.pack("<I", google_crc32c.value(bytes(raw))) + bytes(50)
    tracemalloc.start()
    try:
        with pytest.raises(BitstreamError):
            Reader(io.BytesIO(data)).read_all()
        with contextlib.suppress(BitstreamError):
            assert all(block.codes is None for block in Reader(io.BytesIO(data)).blocks())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200_000


def test_the_largest_promises_cost_nothing() -> None:
    """The worst headers that are still in range: 4 billion frames, blocks of 4 million codes."""
    frames = 2**32 - 2
    for changes in ({"frames_per_block": 65535, "codebooks": 32}, {"frames_per_block": 1}):
        header = tiny_header(codebook_size=65536, frames=frames, samples=frames * 200, **changes)
        data = header.to_bytes() + bytes(30)
        tracemalloc.start()
        try:
            reader = Reader(io.BytesIO(data))
            blocks = sum(1 for _ in reader.blocks())
            with pytest.raises(BitstreamError, match=f"byte {len(data)}: truncated"):
                reader.check_complete()
            with pytest.raises(BitstreamError, match="byte"):
                reader.read_all()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert blocks <= 3
        assert peak < 100_000


@pytest.mark.parametrize(("position", "value"), [(34, 17), (35, 3), (51, 1), (71, 1)])
def test_header_padding_must_be_zero(position: int, value: int) -> None:
    """One header has one spelling, so that nothing travels in it unseen."""
    raw = bytearray(tiny_header().to_bytes()[:-4])
    raw[position] = value
    with pytest.raises(BitstreamError, match="sizes or padding"):
        Header.from_bytes(bytes(raw) + struct.pack("<I", google_crc32c.value(bytes(raw))))


def test_another_model_is_refused_by_name() -> None:
    """Codes mean nothing to another codebook; the message must say which model would do."""
    header = tiny_header()
    check_model(header, header.fingerprint, "tiny")
    with pytest.raises(AdjaxError, match=r"model 'tiny' \(fingerprint a0a1.*'other' \(fingerprint 0000"):
        check_model(header, bytes(8), "other")


def test_short_name_fits_and_stays_text() -> None:
    """A cut within a character would make the name unreadable."""
    assert short_name("tiny") == "tiny"
    for name in ("x" * 30, "ä" * 30, "x" + "ä" * 30):
        cut = short_name(name)
        assert name.startswith(cut)
        assert 18 < len(cut.encode()) <= MAX_NAME_BYTES
        assert Header.from_bytes(tiny_header(name=cut).to_bytes()).name == cut


# --------------------------------------------------------------------------------------------------- growing files


@BOTH_LENGTHS
def test_a_growing_file_is_read_as_it_comes(unknown: bool) -> None:
    """Bytes are only appended, so a reader that looks after every byte sees each block once, whole and in order."""
    header, codes, data = small_file(unknown)
    file = io.BytesIO(data[:HEADER_BYTES])
    reader, blocks = Reader(file), []
    for position in range(HEADER_BYTES, len(data) + 1):
        file.seek(0, 2)
        file.write(data[position - 1 : position] if position > HEADER_BYTES else b"")
        blocks += reader.blocks()
        known = position == len(data) or not unknown
        assert reader.frames == (8 if known else None)
        if position == header.block_offset(1):
            assert len(blocks) == 1  # not a byte later than needed
    np.testing.assert_array_equal(joined(blocks), codes)
    reader.check_complete()


def test_a_growing_end_record_is_not_taken_for_a_block() -> None:
    """Half an end record can be longer than a whole block where blocks are small; it is not damage."""
    header = tiny_header(codebooks=1, codebook_size=2, **UNKNOWN)
    data = written(header, np.ones((1, 4, 1), np.int32))
    for length in range(len(data) - END_BYTES, len(data)):
        reader = Reader(io.BytesIO(data[:length]))
        assert [block.error for block in reader.blocks()] == [None, None]
        assert reader.frames is None


def test_a_writer_lets_others_read_each_block_at_once(tmp_path: Path) -> None:
    """A recording is followed from another process, which sees what was flushed and nothing else."""
    path = tmp_path / "live.adjx"
    with path.open("wb") as out, path.open("rb") as file, Writer(out, tiny_header(**UNKNOWN)) as writer:
        reader = Reader(file)
        for i in range(3):
            writer.write(TINY_CODES[:, :2] // (i + 1))
            assert [block.index for block in reader.blocks()] == [i]
        writer.write(TINY_CODES[:, 2:])
        assert list(reader.blocks()) == []
        assert reader.samples is None
        writer.close()
        assert [block.frames for block in reader.blocks()] == [1]
        assert reader.samples == 7 * 300 * 44100 // 48000
        with pytest.raises(BitstreamError, match=f"{re.escape(str(path))}: no block 9"):
            reader.seek_block(9)


def test_damage_to_a_growing_file_does_not_stop_it() -> None:
    """Far enough from the end a block must be a full one, so a lost count costs this block and no more."""
    _, codes, data = small_file(True)
    damaged = bytearray(data[:-END_BYTES])  # no end record yet
    damaged[HEADER_BYTES] ^= 0x02
    blocks = list(Reader(io.BytesIO(damaged)).blocks())
    assert [block.error is None for block in blocks] == [False, True, True]
    np.testing.assert_array_equal(blocks[1].codes, codes[:, 3:6])


# ------------------------------------------------------------------------------------------------------- document


def test_the_document_tells_the_bytes_and_how_to_read_them() -> None:
    """Somebody else's reader is written from the document: its dumps and its reader must be right."""
    dumps = [
        bytes.fromhex("".join(line[4:] for line in dump.splitlines()))
        for dump in re.findall(r"```hex\n(.*?)```", DOCUMENT, re.DOTALL)
    ]
    assert dumps == [written(tiny_header(), TINY_CODES), written(tiny_header(**UNKNOWN), TINY_CODES, 800)]
    scope: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)[0], scope)
    assert scope["crc32c"](b"123456789") == 0xE3069283
    for data in dumps:
        assert scope["read"](data) == TINY_CODES.transpose(1, 0, 2).tolist()
    for unknown in (False, True):
        _, codes, data = small_file(unknown)
        assert scope["read"](data) == codes.transpose(1, 0, 2).tolist()
        for damaged in (data[:-1], data + b"\0", data[:90] + bytes([data[90] ^ 1]) + data[91:]):
            with pytest.raises(ValueError, match=r"block|bytes"):
                scope["read"](damaged)


def test_the_header_table_matches_the_code() -> None:
    """Offsets and sizes in the table must tile the header without gap or overlap."""
    table = DOCUMENT.split("## Header")[1].split("##")[0]
    rows = [(int(a), int(b)) for a, b in re.findall(r"^\| (\d+) \| (\d+) \|", table, re.MULTILINE)]
    assert [offset for offset, _ in rows] == [sum(size for _, size in rows[:i]) for i in range(len(rows))]
    assert sum(size for _, size in rows) == HEADER_BYTES
    assert packed_bytes(3, 10) == 4
