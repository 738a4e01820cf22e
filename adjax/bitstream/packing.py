"""Packing codes into bits, and the error that everything wrong with a bitstream raises."""

from __future__ import annotations

import numpy as np

from adjax.errors import AdjaxError


class BitstreamError(AdjaxError):
    """A bitstream that is damaged, truncated, hostile or of another model; the message says where."""


def pack_codes(codes: np.ndarray, bits: int) -> bytes:
    """Packs int32[...] codes, each in [0, 2**bits), in C order, first bit highest; the last byte ends in zeros.

    Raises BitstreamError for codes out of range and for bits outside 1 to 16.
    """
    _check_bits(bits)
    flat = np.asarray(codes).reshape(-1)
    if flat.size and (flat.min() < 0 or flat.max() >> bits):
        raise BitstreamError(f"codes span {flat.min()} to {flat.max()}, but {bits} bits hold 0 to {(1 << bits) - 1}")
    groups = -(-flat.size // 8)
    columns = np.zeros((groups, 8), np.uint32)  # eight codes fill `bits` whole bytes, so the byte pattern repeats
    columns.reshape(-1)[: flat.size] = flat
    out = np.zeros((groups, bits + 2), np.uint8)
    for j in range(8):
        byte, bit = divmod(j * bits, 8)
        window = columns[:, j] << np.uint32(24 - bits - bit)
        for k in range(3):
            out[:, byte + k] |= (window >> np.uint32(16 - 8 * k)).astype(np.uint8)
    return out[:, :bits].tobytes()[: packed_bytes(flat.size, bits)]


def unpack_codes(data: bytes, count: int, bits: int) -> np.ndarray:
    """Unpacks int32[count] from what `pack_codes` gave.

    Raises BitstreamError for a length that is not `packed_bytes(count, bits)` and for padding bits that are not zero.
    """
    _check_bits(bits)
    if len(data) != packed_bytes(count, bits):
        raise BitstreamError(
            f"{len(data)} bytes for {count} codes of {bits} bits, which take {packed_bytes(count, bits)}"
        )
    padding = -(count * bits) % 8
    if padding and data[-1] & ((1 << padding) - 1):
        raise BitstreamError(f"the last {padding} bits are padding and must be zero")
    groups = -(-count // 8)
    padded = np.zeros(groups * bits, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    columns = np.zeros((groups, bits + 2), np.uint8)
    columns[:, :bits] = padded.reshape(groups, bits)
    out = np.empty((groups, 8), np.int32)
    for j in range(8):
        byte, bit = divmod(j * bits, 8)
        window = np.zeros(groups, np.uint32)
        for k in range(3):
            window |= columns[:, byte + k].astype(np.uint32) << np.uint32(16 - 8 * k)
        out[:, j] = (window >> np.uint32(24 - bits - bit)) & np.uint32((1 << bits) - 1)
    return out.reshape(-1)[:count]


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` codes of `bits` bits take."""
    return -(-count * bits // 8)


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= 16:
        raise BitstreamError(f"bits is {bits}, but must be 1 to 16")
