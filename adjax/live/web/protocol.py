"""Messages between the page and the server: strict JSON for control, and chunks of samples behind a short header."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from adjax.errors import AdjaxError
from adjax.strict_json import from_dict

VERSION = 1
MAX_CONTROL_CHARACTERS = 1000
MAX_REASON_BYTES = 123  # of a WebSocket's close frame (RFC 6455, section 5.5)
CHUNK_HEADER = struct.Struct("<II")  # number of the settings, index of the chunk
REPLY_HEADER = struct.Struct("<IIff")  # both as they came; milliseconds of waiting and of computation


class ProtocolError(AdjaxError):
    """A message that the server does not take; the connection is closed with this reason."""


@dataclass(frozen=True)
class Start:
    """A new stream, coded with this model."""

    model: str
    chunk_frames: int
    codebooks: int
    bypass: bool


@dataclass(frozen=True)
class Change:
    """Other settings for the stream that runs."""

    chunk_frames: int
    codebooks: int
    bypass: bool


@dataclass(frozen=True)
class Stop:
    """The end of the stream."""


Control = Start | Change | Stop
_CONTROLS: dict[str, type[Control]] = {"start": Start, "change": Change, "stop": Stop}


def parse_control(text: str) -> Control:
    """The control message of a JSON text; raises ProtocolError for all but one object with exactly its keys."""
    if len(text) > MAX_CONTROL_CHARACTERS:
        raise ProtocolError(f"a control message has at most {MAX_CONTROL_CHARACTERS} characters, not {len(text)}")
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not a JSON message: {error}") from None
    kind = data.pop("type", None) if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in _CONTROLS:
        raise ProtocolError(f"a control message is an object whose type is one of {', '.join(_CONTROLS)}")
    try:
        return from_dict(_CONTROLS[kind], data)
    except AdjaxError as error:
        raise ProtocolError(f"{kind}: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        raise ValueError("a key is there twice")
    return data


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def unpack_chunk(data: bytes) -> tuple[int, int, np.ndarray]:
    """Number of the settings, index and float32[samples] of a binary message, as they came."""
    if len(data) <= CHUNK_HEADER.size or len(data) % 4:
        raise ProtocolError(f"a message of {len(data)} bytes is no header and 32-bit samples")
    number, index = CHUNK_HEADER.unpack_from(data)
    return number, index, np.frombuffer(data, "<f4", offset=CHUNK_HEADER.size)


def pack_reply(number: int, index: int, waited_ms: float, computed_ms: float, samples: np.ndarray) -> bytes:
    """The binary message that brings decoded float32[samples] back."""
    return REPLY_HEADER.pack(number, index, waited_ms, computed_ms) + samples.astype("<f4").tobytes()


def close_reason(error: Exception) -> str:
    """What fits into a close frame of an error's message."""
    encoded = str(error).encode("utf-8", "replace")
    return encoded[:MAX_REASON_BYTES].decode("utf-8", "ignore")
