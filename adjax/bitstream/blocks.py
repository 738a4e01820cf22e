"""Writing and reading the blocks of a bitstream, each with a checksum of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO

import numpy as np

from adjax.bitstream.header import (
    COUNT,
    CRC,
    END,
    END_BYTES,
    HEADER_BYTES,
    UNKNOWN_FRAMES,
    Header,
    checksum,
)
from adjax.bitstream.packing import BitstreamError, pack_codes, unpack_codes


class Writer:
    """Writes a bitstream to a binary file in one pass, without seeking; leaves the file open.

    A context manager that closes the stream unless an error passes through. Where the header leaves the length open,
    `close` appends a record with it. Each block is flushed, so that others can read the file while it grows.
    """

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self.header = header
        self.frames: int = 0  # written so far
        self._file = file
        self._index = 0
        self._fill = 0
        self._closed = False
        self._buffer = np.empty((header.streams, header.frames_per_block, header.codebooks), np.int32)
        data = header.to_bytes()
        self._header_crc = data[-CRC.size :]
        self._put(data)

    def write(self, codes: np.ndarray) -> None:
        """Appends int32[streams, frames, codebooks]; raises BitstreamError for other shapes and codes out of range."""
        if self._closed:
            raise BitstreamError("the bitstream is closed")
        codes = np.asarray(codes)
        streams, _, codebooks = self._buffer.shape
        if codes.ndim != 3 or codes.shape[0] != streams or codes.shape[2] != codebooks or codes.dtype.kind not in "iu":
            raise BitstreamError(
                f"codes are {codes.dtype}{list(codes.shape)}, but must be int32[{streams}, frames, {codebooks}]"
            )
        size = self.header.codebook_size
        if codes.size and (codes.min() < 0 or codes.max() >= size):
            raise BitstreamError(f"codes span {codes.min()} to {codes.max()}, but must be 0 to {size - 1}")
        total = self.frames + codes.shape[1]
        most = UNKNOWN_FRAMES - 1 if self.header.frames is None else self.header.frames
        if total > most:
            raise BitstreamError(f"{total} frames written, but the header allows {most}")
        start = 0
        while start < codes.shape[1]:
            part = codes[:, start : start + self.header.frames_per_block - self._fill]
            self._buffer[:, self._fill : self._fill + part.shape[1]] = part
            self._fill += part.shape[1]
            start += part.shape[1]
            if self._fill == self.header.frames_per_block:
                self._put(self._take_block())
        self.frames = total

    def close(self, samples: int | None = None) -> None:
        """Writes what is left, once; `samples`, per channel, counts where the header leaves it open (default: all)."""
        header = self.header
        if self._closed:
            return
        if header.frames is None:
            if samples is None:
                samples = self.frames * header.hop_samples * header.input_sample_rate_hz // header.sample_rate_hz
            header.check_length(self.frames, samples)
            tail = self._take_block()
            self._put(tail + self._seal(END.pack(0, self.frames, samples)))  # at once: see `Reader._growing_count`
        elif self.frames != header.frames:
            raise BitstreamError(f"{self.frames} frames written, but the header says {header.frames}")
        else:
            self._put(self._take_block())
        self._closed = True

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()

    def _take_block(self) -> bytes:
        if not self._fill:
            return b""
        by_frame = self._buffer[:, : self._fill].transpose(1, 0, 2)
        record = self._seal(COUNT.pack(self._fill) + pack_codes(by_frame, self.header.bits_per_code))
        self._fill = 0
        self._index += 1
        return record

    def _seal(self, record: bytes) -> bytes:
        return record + checksum(self._header_crc, self._index, record)

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()


@dataclass(frozen=True, eq=False)
class Block:
    """One block: `codes` int32[streams, frames, codebooks], or the `error` that kept them from being read."""

    index: int
    first_frame: int
    frames: int
    byte_offset: int
    codes: np.ndarray | None
    error: BitstreamError | None


class Reader:
    """Reads a bitstream from a seekable binary file, a block at a time, also while the file still grows.

    Raises BitstreamError, with the byte offset, for a header that is not whole and valid.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        name = getattr(file, "name", None)
        self._where = f"{name}: " if isinstance(name, str) else ""
        if not file.seekable():
            raise BitstreamError(f"{self._where}a bitstream is read from a seekable file, not from a pipe")
        file.seek(0)
        data = file.read(HEADER_BYTES)
        try:
            self.header = Header.from_bytes(data)
        except BitstreamError as error:
            raise BitstreamError(f"{self._where}{error}") from None
        self._header_crc = data[-CRC.size :]
        self._frames = self.header.frames
        self._samples = self.header.samples
        self._index, self._first, self._offset = 0, 0, HEADER_BYTES

    @property
    def frames(self) -> int | None:
        """Frames per stream; None while the file still grows without saying how long it will be."""
        if self._frames is None:
            self._find_end()
        return self._frames

    @property
    def samples(self) -> int | None:
        """Samples per channel at the input's rate; None as for `frames`."""
        return None if self.frames is None else self._samples

    @property
    def duration_s(self) -> float | None:
        samples = self.samples
        return None if samples is None else samples / self.header.input_sample_rate_hz

    @property
    def payload_bits(self) -> int | None:
        """Bits of all codes, without header, checksums and padding."""
        frames = self.frames
        return None if frames is None else frames * self.header.bits_per_frame

    @property
    def block_count(self) -> int:
        """Blocks that the file has by its length in frames or, while that is unknown, whole blocks there so far."""
        frames = self.frames
        if frames is None:
            return (self._size() - HEADER_BYTES) // self.header.block_bytes(self.header.frames_per_block)
        return -(-frames // self.header.frames_per_block)

    def seek_block(self, index: int) -> None:
        """Lets `blocks` go on with block `index`, 0 to `block_count`; frame f is in block f // frames_per_block."""
        if not 0 <= index <= self.block_count:
            raise BitstreamError(f"{self._where}no block {index}: blocks 0 to {self.block_count - 1} are there")
        self._index, self._first = index, index * self.header.frames_per_block
        self._offset = self.header.block_offset(index)

    def blocks(self) -> Iterator[Block]:
        """Yields the blocks from here on, damaged ones with `error` set, up to where the file ends for now.

        A block that is not whole is not yielded: call `check_complete` afterwards, or `blocks` again on a growing file.
        """
        while True:
            frames = self.frames
            available = self._size() - self._offset
            if frames is None:
                count = self._growing_count(available)
            else:
                count = min(self.header.frames_per_block, frames - self._first)
            size = self.header.block_bytes(count)
            if count <= 0 or size > available:
                return
            block = self._parse(self._read(self._offset, size), count)
            self._index, self._first, self._offset = self._index + 1, self._first + count, self._offset + size
            yield block

    def check_complete(self) -> None:
        """Raises BitstreamError unless the file has exactly the length that it must have."""
        frames, size = self.frames, self._size()
        if frames is None:
            raise BitstreamError(
                f"{self._where}byte {size}: truncated: no valid end record, so writing was cut short or goes on"
            )
        expected = self.header.end_offset(frames) + (END_BYTES if self.header.frames is None else 0)
        if size < expected:
            block = (size - HEADER_BYTES) // self.header.block_bytes(self.header.frames_per_block)
            raise BitstreamError(
                f"{self._where}byte {size}: truncated in block {block} of {self.block_count}: {expected} bytes expected"
            )
        if size > expected:
            raise BitstreamError(
                f"{self._where}byte {expected}: {size - expected} bytes behind the end of the bitstream"
            )

    def read_all(self) -> np.ndarray:
        """All codes, int32[streams, frames, codebooks]; raises BitstreamError on any damage anywhere."""
        self.seek_block(0)
        parts: list[np.ndarray] = [np.empty((self.header.streams, 0, self.header.codebooks), np.int32)]
        for block in self.blocks():
            if block.error is not None:
                raise block.error
            assert block.codes is not None
            parts.append(block.codes)
        self.check_complete()
        return np.concatenate(parts, axis=1)

    def _growing_count(self, available: int) -> int:
        """Frames of the next block while the length is unknown; 0 while that cannot be told."""
        full = self.header.frames_per_block
        if self._first % full or available < COUNT.size:
            return 0  # behind a short block stands nothing but the end record
        (count,) = COUNT.unpack(self._read(self._offset, COUNT.size))
        size = self.header.block_bytes(count)
        if 0 < count < full and size <= available and self._is_sealed(self._read(self._offset, size), self._index):
            return count
        # this far from the end it cannot be a short block, whatever its count says
        return full if count == full or available >= self.header.block_bytes(full) + END_BYTES else 0

    def _find_end(self) -> None:
        last = self._size() - END_BYTES
        for offset in (last, self._offset):
            if not HEADER_BYTES <= offset <= last:
                continue
            record = self._read(offset, END_BYTES)
            mark, frames, samples = END.unpack(record[: END.size])
            index = -(-frames // self.header.frames_per_block)
            if mark == 0 and offset == self.header.end_offset(frames) and self._is_sealed(record, index):
                try:
                    self.header.check_length(frames, samples)
                except BitstreamError as error:
                    raise BitstreamError(f"{self._where}byte {offset}: end record: {error}") from None
                self._frames, self._samples = frames, samples
                return

    def _parse(self, record: bytes, count: int) -> Block:
        header, codes, problem = self.header, None, ""
        (stored,) = COUNT.unpack_from(record)
        if not self._is_sealed(record, self._index):
            problem = "damaged: checksum mismatch"
        elif stored != count:
            problem = f"says {stored} frames where {count} belong"
        else:
            codes_count = count * header.streams * header.codebooks
            try:
                flat = unpack_codes(record[COUNT.size : -CRC.size], codes_count, header.bits_per_code)
                codes = np.ascontiguousarray(flat.reshape(count, header.streams, -1).transpose(1, 0, 2))
                if flat.max() >= header.codebook_size:
                    codes, problem = None, f"code {flat.max()} in a codebook of {header.codebook_size}"
            except BitstreamError as error:
                problem = str(error)
        error = None
        if problem:
            frames = f"frames {self._first} to {self._first + count - 1}"
            error = BitstreamError(f"{self._where}byte {self._offset}: block {self._index} ({frames}): {problem}")
        return Block(self._index, self._first, count, self._offset, codes, error)

    def _is_sealed(self, record: bytes, index: int) -> bool:
        return record[-CRC.size :] == checksum(self._header_crc, index, record[: -CRC.size])

    def _size(self) -> int:
        return self._file.seek(0, 2)

    def _read(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        data = self._file.read(size)
        if len(data) < size:
            raise BitstreamError(f"{self._where}byte {offset + len(data)}: the file shrank while it was read")
        return data
