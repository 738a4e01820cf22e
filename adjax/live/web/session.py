"""One connection's stream: chunks from the browser through encoder and decoder in a thread, in bounded memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from adjax.live.buffers import FADE_S, Channel
from adjax.live.engine import QUEUE_CHUNKS, Decoder
from adjax.live.statistics import Durations
from adjax.live.web.protocol import Change, ProtocolError, Start, pack_reply, unpack_chunk
from adjax.streaming import Codec

KEPT_SETTINGS = 16  # changes that may be under way before the browser's chunks follow them
AHEAD_S = 10.0  # of audio that may come at once: a browser's tab that stood still sends what it collected
FASTER = 1.25  # than real time, in the long run: clocks differ


@dataclass(frozen=True)
class Settings:
    """How chunks that name `number` are coded; those of another `stream` begin afresh."""

    number: int
    stream: int
    codec: Codec
    chunk_frames: int
    codebooks: int
    bypass: bool

    @property
    def samples(self) -> int:
        """Of a chunk."""
        return self.chunk_frames * self.codec.hop_length

    def describe(self) -> dict[str, Any]:
        codec = self.codec
        return {
            "settings": self.number,
            "stream": self.stream,
            "model": codec.config.name,
            "sample_rate_hz": codec.sample_rate,
            "chunk_frames": self.chunk_frames,
            "chunk_samples": self.samples,
            "codebooks": self.codebooks,
            "bypass": self.bypass,
            "kbps": round(codec.bitrate / 1000 * self.codebooks / codec.num_codebooks, 3),
            "delay_samples": codec.delay,
        }


class Waiting(NamedTuple):
    """float32[samples] that came at `time_s` (monotonic)."""

    settings: Settings
    index: int
    time_s: float
    samples: np.ndarray


class Allowance:
    """So much at once, and so much a second."""

    def __init__(self, most: float, per_second: float) -> None:
        self._most, self._per_second = most, per_second
        self._left, self._at = most, time.monotonic()

    def take(self, amount: float, now: float) -> bool:
        """Whether `amount` is allowed at `now` (monotonic seconds)."""
        self._left = min(self._most, self._left + (now - self._at) * self._per_second)
        self._at = now
        if amount > self._left:
            return False
        self._left -= amount
        return True


class Coder:
    """The codec's stream of one connection, for one thread: chunk in, codes and chunk out.

    The stream goes on over changes of chunk length and codebooks. With `bypass` the original comes out, as late as the
    decoded signal, while the codec runs on; over 5 ms the one is faded into the other.
    """

    def __init__(self) -> None:
        self._settings: Settings | None = None
        self._new_times()

    def _new_times(self) -> None:
        self.times = {"queue": Durations(), "encode": Durations(), "decode": Durations()}

    def step(self, settings: Settings, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes int32[1, frames, codebooks] and what is heard, float32[samples]."""
        codec, before = settings.codec, self._settings
        if before is None or before.stream != settings.stream:
            self._encoder = codec.init_encoder(1)
            self._decoder = Decoder(codec, settings.chunk_frames, [])
            self._past = np.zeros(codec.delay, np.float32)
        if before is None or before.number != settings.number:
            self._new_times()
            self._decoder.times = self.times["decode"]
        faded = before is not None and before.stream == settings.stream and before.bypass != settings.bypass
        self._settings = settings
        with self.times["encode"].measure():
            chunk = samples[None, :, None]
            self._encoder, codes = codec.encode_step(self._encoder, chunk, codebooks=settings.codebooks)
            codes = np.asarray(codes)
        decoded = self._decoder.step(codes)[:, 0]
        both = np.concatenate([self._past, samples])
        original, self._past = both[: len(samples)], both[len(samples) :]
        heard, other = (original, decoded) if settings.bypass else (decoded, original)
        if faded:
            fade = min(len(samples), round(FADE_S * codec.sample_rate))
            gain = np.linspace(0, 1, fade, endpoint=False, dtype=np.float32)
            heard = heard.copy()
            heard[:fade] = gain * heard[:fade] + (1 - gain) * other[:fade]
        return codes, heard


class Session:
    """What one connection has: its settings, its queue and its coder.

    `receive` is called as messages come, `run` in a thread of its own until `close`; it hands replies to `deliver`.
    """

    def __init__(self, deliver: Callable[[bytes], object]) -> None:
        self._deliver = deliver
        self._chunks: Channel[Waiting] = Channel(QUEUE_CHUNKS)
        self._allowance = Allowance(AHEAD_S, FASTER)
        self._settings: OrderedDict[int, Settings] = OrderedDict()
        self._number = self._stream = 0
        self._coder = Coder()
        self.chunks = self.unsent = self.repaired = 0

    @property
    def now(self) -> Settings | None:
        """The latest settings; None before a stream's start and after its stop."""
        return next(reversed(self._settings.values()), None)

    def begin(self) -> None:
        """Ends the stream for a new one, which is counted from 1 and whose drop-outs are counted anew."""
        self.stop()
        self._stream += 1
        self._chunks.dropped = self.chunks = self.unsent = self.repaired = 0

    def apply(self, codec: Codec, wanted: Start | Change) -> Settings:
        """Makes settings that the browser's chunks may name from now on."""
        self._number += 1
        settings = Settings(self._number, self._stream, codec, wanted.chunk_frames, wanted.codebooks, wanted.bypass)
        self._settings[self._number] = settings
        if len(self._settings) > KEPT_SETTINGS:
            self._settings.popitem(last=False)
        return settings

    def stop(self) -> None:
        """Ends the stream; no settings are left that a chunk may name."""
        self._settings.clear()

    def receive(self, data: bytes) -> None:
        """Queues a chunk, or drops and counts it where the queue is full. Raises ProtocolError for any other message.

        What is not finite becomes 0, and samples are limited to +-1: either would stay in the encoder's state for good.
        """
        number, index, samples = unpack_chunk(data)
        settings = self._settings.get(number)
        if settings is None:
            raise ProtocolError(f"audio names settings {number}, which are not ready or were replaced long ago")
        if len(samples) != settings.samples:
            raise ProtocolError(f"a chunk of settings {number} has {settings.samples} samples, not {len(samples)}")
        now = time.monotonic()
        if not self._allowance.take(len(samples) / settings.codec.sample_rate, now):
            raise ProtocolError("audio comes faster than real time")
        finite = np.isfinite(samples)
        if not finite.all():
            self.repaired += 1
            samples = np.where(finite, samples, np.float32(0))
        self.chunks += 1
        self._chunks.put(Waiting(settings, index, now, np.clip(samples, -1, 1)))

    def run(self) -> None:
        """Codes chunk after chunk until `close`."""
        for settings, index, came_s, samples in self._chunks:
            started = time.monotonic()
            _, heard = self._coder.step(settings, samples)
            ended = time.monotonic()
            self._coder.times["queue"].add(started - came_s)
            self._deliver(
                pack_reply(settings.number, index, 1000 * (started - came_s), 1000 * (ended - started), heard)
            )

    def close(self) -> None:
        """Ends `run` after the chunk that it works on."""
        self._chunks.abort()

    def statistics(self) -> dict[str, Any]:
        return {
            "latency_ms": {name: times.summary_ms() for name, times in self._coder.times.items()},
            "chunks": self.chunks,
            "drop_outs": {
                "chunks_not_coded": self._chunks.dropped,
                "chunks_not_sent": self.unsent,
                "chunks_not_finite": self.repaired,
            },
        }
