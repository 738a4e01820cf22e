"""The header of a bitstream, and what follows from it: offsets, sizes, checksums, the model it asks for."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import google_crc32c

from adjax.bitstream.packing import BitstreamError, packed_bytes

MAGIC = b"ADJX"
VERSION = 1
MAX_BLOCK_CODES = 1 << 22  # codes in one block: bounds what a reader has to hold at once
MAX_SAMPLE_RATE_HZ = 1_000_000
MAX_NAME_BYTES = 20

FIELDS = struct.Struct("<4s4B2H3IQH2B16s20s")
COUNT = struct.Struct("<H")
CRC = struct.Struct("<I")
END = struct.Struct("<HIQ")
UNKNOWN_FRAMES = (1 << 32) - 1
UNKNOWN_SAMPLES = (1 << 64) - 1
HEADER_BYTES = FIELDS.size + CRC.size
BLOCK_OVERHEAD_BYTES = COUNT.size + CRC.size
END_BYTES = END.size + CRC.size


@dataclass(frozen=True)
class Header:
    """What a file says about itself; `frames` and `samples` are None where the length is not known beforehand.

    A stream is what the model codes at once: one channel for a mono model, so that `streams` equals `channels`; fewer
    streams than channels for a model of several channels. `samples` counts per channel at the input's sample rate,
    `frames` per stream. Raises BitstreamError with the field that is out of range.
    """

    sample_rate_hz: int  # the model's
    input_sample_rate_hz: int  # of the audio that was encoded, and that decoding gives back
    channels: int
    streams: int
    codebooks: int
    codebook_size: int
    hop_samples: int
    frames_per_block: int
    frames: int | None
    samples: int | None
    fingerprint: bytes  # of the encoder and codebooks
    name: str = ""  # the model's, for messages only

    def __post_init__(self) -> None:
        _check_range("sample_rate_hz", self.sample_rate_hz, 1, MAX_SAMPLE_RATE_HZ)
        _check_range("input_sample_rate_hz", self.input_sample_rate_hz, 1, MAX_SAMPLE_RATE_HZ)
        _check_range("channels", self.channels, 1, 255)
        _check_range("streams", self.streams, 1, self.channels)
        _check_range("codebooks", self.codebooks, 1, 255)
        _check_range("codebook_size", self.codebook_size, 2, 65536)
        _check_range("hop_samples", self.hop_samples, 1, 65535)
        _check_range("frames_per_block", self.frames_per_block, 1, 65535)
        _check_range("codes in a block", self.frames_per_block * self.streams * self.codebooks, 1, MAX_BLOCK_CODES)
        _check_range("bytes of the fingerprint", len(self.fingerprint), 8, 16)
        if not self.name.isprintable():
            raise BitstreamError(f"header: name is {self.name!r}, but must be printable")
        _check_range("bytes of the name", len(self.name.encode()), 0, MAX_NAME_BYTES)
        if (self.frames is None) != (self.samples is None):
            raise BitstreamError("header: frames and samples must both be known or both be unknown")
        if self.frames is not None and self.samples is not None:
            self.check_length(self.frames, self.samples)

    @property
    def bits_per_code(self) -> int:
        return (self.codebook_size - 1).bit_length()

    @property
    def bits_per_frame(self) -> int:
        """Payload bits of one frame of all streams."""
        return self.streams * self.codebooks * self.bits_per_code

    def check_length(self, frames: int, samples: int) -> None:
        """Raises BitstreamError where `frames` cannot hold `samples`: a decoder would have to invent the rest."""
        _check_range("frames", frames, 0, UNKNOWN_FRAMES - 1)
        # one hop of slack covers how resamplers round lengths
        most = (frames + 1) * self.hop_samples * self.input_sample_rate_hz // self.sample_rate_hz
        _check_range(f"samples (of {frames} frames)", samples, 0, most)

    def block_bytes(self, frames: int) -> int:
        """Bytes of a block of `frames` frames, its count and checksum included."""
        return BLOCK_OVERHEAD_BYTES + packed_bytes(frames, self.bits_per_frame)

    def block_offset(self, index: int) -> int:
        """Byte offset of block `index`."""
        return HEADER_BYTES + index * self.block_bytes(self.frames_per_block)

    def end_offset(self, frames: int) -> int:
        """Byte offset just behind the blocks that hold `frames` frames."""
        full, rest = divmod(frames, self.frames_per_block)
        return self.block_offset(full) + (self.block_bytes(rest) if rest else 0)

    def to_bytes(self) -> bytes:
        """The header as it stands in a file: 76 bytes, little-endian, its CRC-32C last."""
        counts = (self.channels, self.streams, self.codebooks, self.codebook_size - 1, self.frames_per_block)
        rates = (self.sample_rate_hz, self.input_sample_rate_hz)
        frames = UNKNOWN_FRAMES if self.frames is None else self.frames
        samples = UNKNOWN_SAMPLES if self.samples is None else self.samples
        lengths = (frames, samples, self.hop_samples)
        name = self.name.encode()
        sizes = (len(self.fingerprint), len(name))
        fields = FIELDS.pack(MAGIC, VERSION, *counts, *rates, *lengths, *sizes, self.fingerprint, name)
        return fields + CRC.pack(google_crc32c.value(fields))

    @classmethod
    def from_bytes(cls, data: bytes) -> Header:
        """The header at the start of `data`; raises BitstreamError for anything that `to_bytes` would not write."""
        if data[:4] != MAGIC[: len(data)] or not data:
            raise BitstreamError(f"byte 0: not an .adjx file: it starts with {data[:4]!r} instead of {MAGIC!r}")
        if len(data) > 4 and data[4] != VERSION:
            raise BitstreamError(f"byte 4: version {data[4]} of the format, but this program reads version {VERSION}")
        if len(data) < HEADER_BYTES:
            raise BitstreamError(f"byte {len(data)}: truncated in the header, which takes {HEADER_BYTES} bytes")
        fields = data[: FIELDS.size]
        if google_crc32c.value(fields) != CRC.unpack_from(data, FIELDS.size)[0]:
            raise BitstreamError(f"byte 0: header (bytes 0 to {HEADER_BYTES - 1}) is damaged: checksum mismatch")
        _, _, *counts, hop, size, name_size, fingerprint, name = FIELDS.unpack(fields)
        channels, streams, codebooks, last_code, block, rate, input_rate, frames, samples = counts
        try:
            header = cls(
                sample_rate_hz=rate,
                input_sample_rate_hz=input_rate,
                channels=channels,
                streams=streams,
                codebooks=codebooks,
                codebook_size=last_code + 1,
                hop_samples=hop,
                frames_per_block=block,
                frames=None if frames == UNKNOWN_FRAMES else frames,
                samples=None if samples == UNKNOWN_SAMPLES else samples,
                fingerprint=fingerprint[:size],
                name=name[:name_size].decode(),
            )
        except UnicodeDecodeError as error:
            raise BitstreamError(f"header: name is not UTF-8: {error}") from None
        if header.to_bytes() != data[:HEADER_BYTES]:
            raise BitstreamError("byte 34: header: sizes or padding of fingerprint and name are not as they must be")
        return header


def _check_range(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise BitstreamError(f"header: {what} is {value}, but must be {low} to {high}")


def default_frames_per_block(sample_rate_hz: int, hop_samples: int, streams: int, codebooks: int) -> int:
    """Frames in about one second, fewer where a block would exceed the format's limits."""
    limit = min(65535, MAX_BLOCK_CODES // (streams * codebooks))
    return max(1, min(limit, round(sample_rate_hz / hop_samples)))


def short_name(name: str) -> str:
    """`name` cut to what a header holds, at a character's boundary."""
    return name.encode()[:MAX_NAME_BYTES].decode(errors="ignore")


def check_model(header: Header, fingerprint: bytes, name: str) -> None:
    """Raises BitstreamError unless the file was encoded with the encoder and codebooks of model `name`."""
    if header.fingerprint != fingerprint:
        raise BitstreamError(
            f"encoded with model '{header.name or 'unnamed'}' (fingerprint {header.fingerprint.hex()}), which model "
            f"'{name}' (fingerprint {fingerprint.hex()}) cannot decode; give the model it was encoded with as --model"
        )


def checksum(header_crc: bytes, index: int, record: bytes) -> bytes:
    """Covers the header's checksum and the index too: a block of another file or place does not pass."""
    seed = google_crc32c.value(header_crc + struct.pack("<I", index))
    return CRC.pack(google_crc32c.extend(seed, record))
