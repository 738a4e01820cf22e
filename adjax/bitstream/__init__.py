"""The bitstream `.adjx`: a header, then blocks of packed codes, each with a CRC-32C (docs/bitstream.md)."""

from adjax.bitstream.blocks import Block, Reader, Writer
from adjax.bitstream.header import (
    BLOCK_OVERHEAD_BYTES,
    END_BYTES,
    HEADER_BYTES,
    MAGIC,
    MAX_BLOCK_CODES,
    MAX_NAME_BYTES,
    MAX_SAMPLE_RATE_HZ,
    VERSION,
    Header,
    check_model,
    default_frames_per_block,
    short_name,
)
from adjax.bitstream.packing import BitstreamError, pack_codes, packed_bytes, unpack_codes

__all__ = [
    "BLOCK_OVERHEAD_BYTES",
    "END_BYTES",
    "HEADER_BYTES",
    "MAGIC",
    "MAX_BLOCK_CODES",
    "MAX_NAME_BYTES",
    "MAX_SAMPLE_RATE_HZ",
    "VERSION",
    "BitstreamError",
    "Block",
    "Header",
    "Reader",
    "Writer",
    "check_model",
    "default_frames_per_block",
    "pack_codes",
    "packed_bytes",
    "short_name",
    "unpack_codes",
]
