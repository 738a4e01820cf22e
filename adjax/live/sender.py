"""`adjax send`: codes as UDP packets, with fewer codebooks under pressure."""

from __future__ import annotations

import secrets
import time
from contextlib import ExitStack
from typing import Any

import numpy as np

from adjax.errors import AdjaxError
from adjax.live.buffers import Channel, Workers
from adjax.live.endpoints import Chunk, Name, Source
from adjax.live.engine import QUEUE_CHUNKS, Coded, Encoder, check_codebooks, describe, recording_pair
from adjax.live.packet import WIRE_OVERHEAD, Format, Packet, build
from adjax.live.sockets import SEND_TIMEOUT_S, udp_socket
from adjax.live.statistics import Durations, milliseconds
from adjax.streaming import Codec

RAISE_AFTER_S = 1.0  # without pressure, before a layer is added again
END_PACKETS = 3


class Layers:
    """How many codebooks a sender sends: `most`, one less a packet while its queue is half full, and slowly back."""

    def __init__(self, most: int) -> None:
        self.most = self.now = most
        self._raise_at: float | None = None
        self.lowered = 0

    def update(self, fill: float, now: float) -> int:
        """Codebooks for the next packet, `fill` (0 to 1) being how full the queue before the network is."""
        if fill >= 0.5:
            self.lowered += self.now > 1
            self.now = max(1, self.now - 1)
            self._raise_at = now + RAISE_AFTER_S
        elif self._raise_at is not None and now >= self._raise_at:
            self.now = min(self.most, self.now + 1)
            self._raise_at = now + RAISE_AFTER_S if self.now < self.most else None
        return self.now


def wire_kbps(codec: Codec, form: Format, chunk_frames: int, codebooks: int) -> float:
    """Bitrate on the wire, IPv4 and UDP headers included."""
    seconds = chunk_frames * codec.hop_length / codec.sample_rate
    return 8 * (form.size(chunk_frames, codebooks) + WIRE_OVERHEAD) / seconds / 1000


def run_send(
    codec: Codec,
    source: Source,
    host: str,
    port: int,
    chunk_frames: int,
    codebooks: int | None = None,
    max_kbps: float | None = None,
    gain_db: float = 0.0,
    record: Name | None = None,
) -> dict[str, Any]:
    """Sends what comes from `source`, a packet a chunk, until it ends or Ctrl-C; returns the statistics.

    `max_kbps` bounds the bitrate on the wire by the number of codebooks. Raises AdjaxError for what cannot be sent.
    """
    codebooks, form = check_codebooks(codec, codebooks), Format.of(codec)
    if chunk_frames > form.most_frames(codebooks):
        most = form.most_frames(codebooks) * codec.hop_length * 1000 / codec.sample_rate
        raise AdjaxError(f"--chunk-ms: a packet holds {most:.0f} ms of {codebooks} codebooks at most")
    if max_kbps is not None:
        fitting = [n for n in range(1, codebooks + 1) if wire_kbps(codec, form, chunk_frames, n) <= max_kbps]
        if not fitting:
            least = wire_kbps(codec, form, chunk_frames, 1)
            raise AdjaxError(
                f"--max-kbps is {max_kbps:g}, but one codebook takes {least:.1f} kbps with headers; "
                "a longer --chunk-ms takes less"
            )
        codebooks = fitting[-1]
    rate, chunk = codec.sample_rate, chunk_frames * codec.hop_length
    recording, _ = recording_pair(record, rate, codec.audio_channels)
    encoder = Encoder(codec, chunk_frames, codebooks, gain_db, recording)
    captured: Channel[Chunk] = Channel(QUEUE_CHUNKS)
    coded: Channel[Coded] = Channel(QUEUE_CHUNKS)
    layers, session = Layers(codebooks), secrets.randbits(32)
    pipeline = Durations()
    sent = unsent = payload_bytes = wire_bytes = next_frame = 0
    pressure = False

    with udp_socket(host, port) as (sock, address):
        sock.settimeout(SEND_TIMEOUT_S)  # a full buffer makes the queue before it fill, which is the sign of pressure

        def encode() -> None:
            for item in encoder.run(captured):
                coded.put(item)

        def deliver(packet: Packet) -> None:
            nonlocal unsent, payload_bytes, wire_bytes, pressure
            data = build(packet, form)
            try:
                sock.sendto(data, address)
            except OSError:  # a full buffer, a route that is gone: packets may get lost, so here too
                unsent += 1
                pressure = True
                return
            pressure = False
            payload_bytes += packet.frames and len(data) - form.size(0, 0)
            wire_bytes += len(data) + WIRE_OVERHEAD

        def send() -> None:
            nonlocal sent, next_frame
            for item in coded:
                count = layers.update(1.0 if pressure else coded.fill, time.monotonic())
                codes = item.codes[0, : item.frames, :count]
                deliver(Packet(session, sent, item.index * chunk_frames, codes))
                next_frame = item.index * chunk_frames + item.frames
                sent += 1
                pipeline.add(time.monotonic() - item.time_s)
            for _ in range(END_PACKETS if sent else 0):
                deliver(Packet(session, sent, next_frame, np.zeros((0, 0), np.int32)))
                time.sleep(0.005)

        def abort() -> None:
            captured.abort()
            coded.abort()

        workers = Workers(abort)
        workers.add("source", lambda: source.run(captured.put, workers.stop), captured.close)
        workers.add("encoder", encode, coded.close)
        workers.add("network", send)
        with ExitStack() as stack:
            if recording:
                stack.callback(recording.close)
            workers.run()
    seconds = max(next_frame * codec.hop_length / rate, 1e-9)
    return {
        **describe(codec, codebooks),
        "audio_s": round(encoder.samples / rate, 3),
        "packets": {"sent": sent - unsent, "not_sent": unsent, "with_fewer_codebooks": layers.lowered},
        "rates": {
            "payload_kbps": round(8 * payload_bytes / seconds / 1000, 3),
            "wire_kbps": round(8 * wire_bytes / seconds / 1000, 3),
        },
        "latency_ms": {
            "buffer": {"chunk": milliseconds(chunk / rate)},
            "algorithmic": milliseconds(codec.delay / rate),
            "computation": {"encode": encoder.times.summary_ms()},
            "computation_and_queues": pipeline.summary_ms(),
            "device": {"input": milliseconds(source.latency_s)},
        },
        "drop_outs": {
            "chunks_not_encoded": captured.dropped,
            "chunks_not_sent": coded.dropped,
            "device_input": source.failures,
        },
    }
