"""The UDP packet: built and strictly parsed; docs/packets.md describes it byte by byte."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import google_crc32c
import numpy as np

from adjax.bitstream.packing import BitstreamError, pack_codes, packed_bytes, unpack_codes
from adjax.errors import AdjaxError
from adjax.streaming import Codec

MAGIC, VERSION = b"AJP", 1
MAX_BYTES = 1200  # with IPv6 and UDP headers still under the 1280 bytes that every link carries
WIRE_OVERHEAD = 28  # bytes of IPv4 and UDP headers, which the sender's bitrates count
FINGERPRINT_BYTES = 8
_HEADER = struct.Struct("<3sB8sIIHBB")
_CRC = struct.Struct("<I")
OVERHEAD = _HEADER.size + _CRC.size


class PacketError(AdjaxError):
    """Bytes that are no packet of this format."""


class ForeignModelError(PacketError):
    """An intact packet of another model."""


@dataclass(frozen=True)
class Format:
    """What sender and receiver must share: the model's fingerprint and its codebooks."""

    fingerprint: bytes
    codebooks: int
    codebook_size: int

    @classmethod
    def of(cls, codec: Codec) -> Format:
        """The format of a model. Raises AdjaxError for models too large for it."""
        made = cls(codec.fingerprint[:FINGERPRINT_BYTES], codec.num_codebooks, codec.codebook_size)
        if codec.num_codebooks > 255 or made.bits > 16 or not made.most_frames(codec.num_codebooks):
            raise AdjaxError(f"model '{codec.config.name}' has codes too large for a packet")
        return made

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return max(1, (self.codebook_size - 1).bit_length())

    def size(self, frames: int, codebooks: int) -> int:
        """Bytes of a packet."""
        return OVERHEAD + codebooks * packed_bytes(frames, self.bits)

    def most_frames(self, codebooks: int) -> int:
        """Frames that a packet holds at most."""
        return max((n for n in range(256) if self.size(n, codebooks) <= MAX_BYTES), default=0)


@dataclass(frozen=True)
class Packet:
    """Codes int32[frames, codebooks] of consecutive frames, or, without frames, the end of the stream.

    `sequence` counts packets (16 bits) and `first_frame` frames (32 bits) since the beginning; both wrap around.
    """

    session: int
    sequence: int
    first_frame: int
    codes: np.ndarray

    @property
    def frames(self) -> int:
        return len(self.codes)


def build(packet: Packet, form: Format) -> bytes:
    """Bytes of a packet. Raises AdjaxError for one too large."""
    frames, codebooks = packet.codes.shape
    if frames > 255 or codebooks > form.codebooks or form.size(frames, codebooks) > MAX_BYTES:
        raise AdjaxError(f"{frames} frames of {codebooks} codebooks do not fit a packet of {MAX_BYTES} bytes")
    head = _HEADER.pack(
        MAGIC,
        VERSION,
        form.fingerprint,
        packet.session,
        packet.first_frame & 0xFFFFFFFF,
        packet.sequence & 0xFFFF,
        frames,
        codebooks if frames else 0,
    )
    body = head + b"".join(pack_codes(packet.codes[:, layer], form.bits) for layer in range(codebooks if frames else 0))
    return body + _CRC.pack(google_crc32c.value(body))


def parse(data: bytes, form: Format) -> Packet:
    """The packet that `build` made into these bytes.

    Raises ForeignModelError for an intact packet of another model and PacketError for anything else that is not of
    exactly this form; asks for no more memory than MAX_BYTES call for.
    """
    if not OVERHEAD <= len(data) <= MAX_BYTES:
        raise PacketError(f"{len(data)} bytes, but a packet has {OVERHEAD} to {MAX_BYTES}")
    body, check = data[: -_CRC.size], _CRC.unpack(data[-_CRC.size :])[0]
    magic, version, fingerprint, session, first_frame, sequence, frames, codebooks = _HEADER.unpack_from(body)
    if magic != MAGIC or version != VERSION:
        raise PacketError(f"begins with {data[:4].hex()}, not with {(MAGIC + bytes([VERSION])).hex()}")
    if google_crc32c.value(body) != check:
        raise PacketError("wrong checksum")
    if fingerprint != form.fingerprint:
        raise ForeignModelError(f"of a model with the fingerprint {fingerprint.hex()}, not {form.fingerprint.hex()}")
    if not frames:
        if codebooks or len(data) != OVERHEAD:
            raise PacketError("an end of stream with codes")
        return Packet(session, sequence, first_frame, np.zeros((0, 0), np.int32))
    if not 1 <= codebooks <= form.codebooks:
        raise PacketError(f"{codebooks} codebooks, but the model has 1 to {form.codebooks}")
    if len(data) != form.size(frames, codebooks):
        raise PacketError(f"{len(data)} bytes, but {frames} frames of {codebooks} codebooks take another number")
    size = packed_bytes(frames, form.bits)
    codes = np.empty((frames, codebooks), np.int32)
    try:
        for layer in range(codebooks):
            start = _HEADER.size + layer * size
            codes[:, layer] = unpack_codes(body[start : start + size], frames, form.bits)
    except BitstreamError as error:
        raise PacketError(str(error)) from None
    if codes.max() >= form.codebook_size:
        raise PacketError(f"code {codes.max()}, but codes are below {form.codebook_size}")
    return Packet(session, sequence, first_frame, codes)
