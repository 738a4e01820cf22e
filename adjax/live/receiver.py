"""`adjax receive`: UDP packets of one sender to sound, whatever else arrives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from adjax.live.buffers import Playout, Workers
from adjax.live.conceal import Concealer
from adjax.live.endpoints import Name, Sink
from adjax.live.engine import PLAYOUT_CHUNKS, READY_S, Decoder, describe, playout_drops, recording_pair
from adjax.live.jitter import JitterBuffer, JitterCounts
from adjax.live.packet import MAX_BYTES, WIRE_OVERHEAD, ForeignModelError, Format, PacketError, parse
from adjax.live.sockets import Address, udp_socket
from adjax.live.statistics import Durations, milliseconds
from adjax.streaming import Codec

TIMEOUT_S = 5.0  # without a packet of the sender, after which another one is heard
POLL_S = 0.1


@dataclass
class Refused:
    """Datagrams that were not played."""

    garbage: int = 0
    foreign_model: int = 0
    other_sender: int = 0


class Receiver:
    """Datagrams to sound, with the time as an argument: neither sockets nor clocks.

    The first sender of a valid packet is listened to until its stream ends or it is silent for `timeout_s`; others are
    counted and ignored. One thread may call `datagram` and another one `play`.
    """

    def __init__(self, codec: Codec, chunk_frames: int, jitter_s: float, timeout_s: float = TIMEOUT_S) -> None:
        self._codec, self._chunk_frames = codec, chunk_frames
        self._form, self._hop = Format.of(codec), codec.hop_length
        self._jitter_s, self._timeout_s = jitter_s, timeout_s
        self._frame_s = codec.hop_length / codec.sample_rate
        self._lock = threading.Lock()
        self.decoder = Decoder(codec, chunk_frames, range(1, codec.num_codebooks + 1))
        self.counts, self.refused = JitterCounts(), Refused()
        self.levels = Durations()
        self.streams_ended = self.concealed = self.frames = self.payload_bytes = self.wire_bytes = 0
        self._last_s = 0.0
        self._sender: tuple[Address, int] | None = None
        self._ended: tuple[Address, int] | None = None
        self._open()

    def _open(self) -> None:
        self.buffer = JitterBuffer(self._jitter_s, self._frame_s, self.counts)
        self._begun = False
        self._concealer = Concealer(self._hop, self._codec.num_codebooks, self._codec.sample_rate)

    @property
    def pinned(self) -> bool:
        """Whether a sender is listened to."""
        return self._sender is not None

    def datagram(self, data: bytes, address: Address, now: float) -> None:
        """Takes whatever came from the network; never raises for it."""
        try:
            packet = parse(data, self._form)
        except ForeignModelError:
            self.refused.foreign_model += 1
            return
        except PacketError:
            self.refused.garbage += 1
            return
        with self._lock:
            sender = (address, packet.session)
            if self._sender is None:
                if sender == self._ended or not packet.frames:
                    self.counts.late += packet.frames > 0
                    return
                self._sender = sender
            if sender != self._sender:
                self.refused.other_sender += 1
                return
            self._last_s = now
            self.wire_bytes += len(data) + WIRE_OVERHEAD
            if packet.frames:
                self.payload_bytes += len(data) - self._form.size(0, 0)
                self.buffer.add(now, packet.sequence, packet.first_frame, packet.codes)
            else:
                self.buffer.finish(packet.sequence, packet.first_frame)

    def play(self, now: float) -> np.ndarray | None:
        """The next float32[samples, channels], a chunk or what is left of the stream; None where nothing plays."""
        with self._lock:
            if self._sender is None:
                return None
            level = self.buffer.level
            rows = self.buffer.take(now, self._chunk_frames)
            if self.buffer.ended and not rows:
                self._close(self._sender)
                return None
            if now - self._last_s > self._timeout_s:
                self._close(None)  # should it come back, it is heard again
                return None
            if not rows:
                if not self._begun:
                    return None
                rows = [None] * self._chunk_frames  # the buffer begins anew
            self._begun = True
        self.levels.add(level * self._frame_s)
        present = [row is not None for row in rows]
        padding = [rows[-1]] * (self._chunk_frames - len(rows))
        sound = self.decoder.step(self._concealer.codes([*rows, *padding]))[: len(rows) * self._hop]
        before = self._concealer.concealed
        sound *= self._concealer.gain(present)
        self.concealed += self._concealer.concealed - before
        self.frames += len(rows)
        return sound

    def _close(self, ended: tuple[Address, int] | None) -> None:
        self._ended, self._sender = ended, None
        self.streams_ended += 1
        self._open()
        self.decoder.reset()


def run_receive(
    codec: Codec,
    sink: Sink,
    bind: str,
    port: int,
    chunk_frames: int,
    jitter_s: float = 0.06,
    buffer_s: float = 0.02,
    timeout_s: float = TIMEOUT_S,
    stay: bool = False,
    duration_s: float | None = None,
    record: Name | None = None,
    listening: Callable[[Address], None] | None = None,
) -> dict[str, Any]:
    """Plays what one sender sends until that ends, or with `stay` until Ctrl-C or `duration_s`; returns the statistics.

    `listening` is called with the socket's address once packets are heard. Raises AdjaxError where the address cannot
    be bound, and for what fails in any thread.
    """
    rate, hop, channels = codec.sample_rate, codec.hop_length, codec.audio_channels
    _, recording = recording_pair(record, rate, channels)
    receiver = Receiver(codec, chunk_frames, jitter_s, timeout_s)
    lead = round(buffer_s * rate)
    playout = Playout(rate, channels, lead + PLAYOUT_CHUNKS * chunk_frames * hop, lead)

    with udp_socket(bind, port, bind=True) as (sock, _):
        sock.settimeout(POLL_S)
        if listening:
            listening(sock.getsockname())

        def listen() -> None:
            while not playout.closed:
                try:
                    data, address = sock.recvfrom(MAX_BYTES + 1)
                except TimeoutError:
                    continue
                except ConnectionError:  # some systems report here what an earlier datagram ran into
                    continue
                receiver.datagram(data, address, time.monotonic())

        def play() -> None:
            playout.ready.wait(READY_S)
            while not workers.stop.is_set() and (stay or not receiver.streams_ended):
                if not playout.wait_for_room(lead, POLL_S):
                    continue
                ended = receiver.streams_ended
                sound = receiver.play(time.monotonic())
                if sound is None:
                    if receiver.streams_ended != ended:
                        playout.pause()
                    workers.stop.wait(0.002 if receiver.pinned else 0.02)
                    continue
                if recording:
                    recording.write(sound)
                playout.push(sound)

        workers = Workers(playout.abort)
        workers.add("network", listen)
        workers.add("decoder", play, playout.close)
        workers.add("sink", lambda: sink.run(playout))
        with ExitStack() as stack:
            if recording:
                stack.callback(recording.close)
            workers.run(duration_s)
    return _received(codec, receiver, playout, sink, chunk_frames, jitter_s)


def _received(
    codec: Codec, receiver: Receiver, playout: Playout, sink: Sink, chunk_frames: int, jitter_s: float
) -> dict[str, Any]:
    counts, refused, frame_s = receiver.counts, receiver.refused, codec.hop_length / codec.sample_rate
    seconds = receiver.frames * frame_s
    return {
        **describe(codec, codec.num_codebooks),
        "audio_s": round(receiver.frames * frame_s, 3),
        "streams_ended": receiver.streams_ended,
        "packets": {
            "received": counts.received,
            "lost": counts.lost,
            "late": counts.late,
            "duplicate": counts.duplicate,
            "garbage": refused.garbage,
            "foreign_model": refused.foreign_model,
            "other_sender": refused.other_sender,
        },
        "rates": {
            "payload_kbps": round(8 * receiver.payload_bytes / seconds / 1000, 3) if seconds else None,
            "wire_kbps": round(8 * receiver.wire_bytes / seconds / 1000, 3) if seconds else None,
        },
        "jitter_buffer": {
            "jitter_ms": milliseconds(counts.jitter_s),
            "frames_concealed": receiver.concealed,
            "frames_dropped": counts.frames_dropped,
            "frames_inserted": counts.frames_inserted,
            "resyncs": counts.resyncs,
        },
        "latency_ms": {
            "buffer": {
                "chunk": milliseconds(chunk_frames * frame_s),
                "jitter": milliseconds(jitter_s),
                "jitter_level": receiver.levels.summary_ms(),
                "playback": playout.waits.summary_ms(),
            },
            "algorithmic": milliseconds(codec.delay / codec.sample_rate),
            "computation": {"decode": receiver.decoder.times.summary_ms()},
            "device": {"output": milliseconds(sink.latency_s)},
        },
        "drop_outs": {**playout_drops(playout), "device_output": sink.failures},
    }
