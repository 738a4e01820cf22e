"""The live engine: a source, the encoder, the decoder and a sink, each in a thread of its own, and what it measured."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from adjax.errors import AdjaxError
from adjax.live.buffers import Channel, Playout, Workers
from adjax.live.endpoints import Chunk, Name, Recording, Sink, Source
from adjax.live.statistics import Durations, milliseconds
from adjax.streaming import Codec

QUEUE_CHUNKS = 8  # what may wait between two threads
PLAYOUT_CHUNKS = 4  # what may wait for the loudspeaker, besides the lead
READY_S = 5.0  # what a loudspeaker may take to start


@dataclass(frozen=True)
class Coded:
    """Codes int32[1, chunk frames, codebooks] of a chunk, of which `frames` count (fewer at the end)."""

    index: int
    time_s: float
    codes: np.ndarray
    frames: int


def frames_of_ms(codec: Codec, chunk_ms: float) -> int:
    """Frames of a chunk of about `chunk_ms`, at least one."""
    return max(1, round(chunk_ms * codec.sample_rate / 1000 / codec.hop_length))


def check_codebooks(codec: Codec, codebooks: int | None) -> int:
    """Codebooks to use, all by default. Raises AdjaxError for more than the model has."""
    if codebooks is None:
        return codec.num_codebooks
    if not 1 <= codebooks <= codec.num_codebooks:
        raise AdjaxError(f"--codebooks is {codebooks}, but model '{codec.config.name}' has 1 to {codec.num_codebooks}")
    return codebooks


class Encoder:
    """Chunks to codes, compiled when it is made; counts what was computed and clipped."""

    def __init__(
        self, codec: Codec, chunk_frames: int, codebooks: int, gain_db: float = 0.0, record: Recording | None = None
    ) -> None:
        self._codec, self._codebooks, self._record = codec, codebooks, record
        self._gain = np.float32(10 ** (gain_db / 20))
        self._silence = np.zeros((1, chunk_frames * codec.hop_length, codec.audio_channels), np.float32)
        np.asarray(codec.encode_step(codec.init_encoder(1), self._silence, codebooks=codebooks)[1])
        self.times = Durations()
        self.samples = 0

    def run(self, chunks: Iterable[Chunk]) -> Iterator[Coded]:
        """Yields the codes of one stream; of its last chunk too, filled up with zeros."""
        state = self._codec.init_encoder(1)
        for chunk in chunks:
            samples = np.nan_to_num(chunk.samples * self._gain)  # a driver's NaN would stay in the state for good
            if self._record:
                self._record.write(samples)
            padded = self._silence.copy()
            padded[0, : len(samples)] = samples
            with self.times.measure():
                state, codes = self._codec.encode_step(state, padded, codebooks=self._codebooks)
                codes = np.asarray(codes)
            self.samples += len(samples)
            frames = -(-len(samples) // self._codec.hop_length)
            yield Coded(chunk.index, chunk.time_s, codes, frames)


class Decoder:
    """Codes to samples, compiled for each of the given numbers of codebooks when it is made."""

    def __init__(self, codec: Codec, chunk_frames: int, codebooks: Iterable[int]) -> None:
        self._codec = codec
        for count in codebooks:
            np.asarray(codec.decode_step(codec.init_decoder(1), np.zeros((1, chunk_frames, count), np.int32))[1])
        self.times = Durations()
        self.reset()

    def reset(self) -> None:
        """A new stream."""
        self._state = self._codec.init_decoder(1)

    def step(self, codes: np.ndarray) -> np.ndarray:
        """float32[samples, channels] of int32[1, chunk frames, codebooks]."""
        with self.times.measure():
            self._state, sound = self._codec.decode_step(self._state, codes)
            return np.array(sound)[0]


def run_live(
    codec: Codec,
    source: Source,
    sink: Sink,
    chunk_frames: int,
    codebooks: int | None = None,
    gain_db: float = 0.0,
    record: Name | None = None,
    buffer_s: float = 0.02,
    lossless: bool = False,
) -> dict[str, Any]:
    """Codes from `source` to `sink` until the one ends or Ctrl-C; returns the statistics.

    `record` is the beginning of the names of two files, RECORD-input.wav and RECORD-output.wav. `lossless` lets queues
    wait instead of dropping, for sources and sinks without a pace. Raises AdjaxError for what fails in any thread.
    """
    codebooks = check_codebooks(codec, codebooks)
    rate, hop, channels = codec.sample_rate, codec.hop_length, codec.audio_channels
    recordings = recording_pair(record, rate, channels)
    chunk = chunk_frames * hop
    encoder = Encoder(codec, chunk_frames, codebooks, gain_db, recordings[0])
    decoder = Decoder(codec, chunk_frames, [codebooks])
    captured: Channel[Chunk] = Channel(QUEUE_CHUNKS, lossless)
    coded: Channel[Coded] = Channel(QUEUE_CHUNKS, lossless)
    lead = round(buffer_s * rate)
    playout = Playout(rate, channels, lead + PLAYOUT_CHUNKS * chunk, lead, lossless)
    pipeline = Durations()

    def encode() -> None:
        for item in encoder.run(captured):
            coded.put(item)

    def decode() -> None:
        for item in coded:
            sound = decoder.step(item.codes)[: item.frames * hop]
            if recordings[1]:
                recordings[1].write(sound)
            pipeline.add(time.monotonic() - item.time_s)
            playout.push(sound)

    def abort() -> None:
        captured.abort()
        coded.abort()
        playout.abort()

    def listen() -> None:
        playout.ready.wait(READY_S)  # what comes while the loudspeaker starts would only have to be dropped
        source.run(captured.put, workers.stop)

    workers = Workers(abort)
    workers.add("source", listen, captured.close)
    workers.add("encoder", encode, coded.close)
    workers.add("decoder", decode, playout.close)
    workers.add("sink", lambda: sink.run(playout))
    with ExitStack() as stack:
        for recording in recordings:
            if recording:
                stack.callback(recording.close)
        workers.run()
    return {
        **describe(codec, codebooks),
        "audio_s": round(encoder.samples / rate, 3),
        "latency_ms": {
            "buffer": {"chunk": milliseconds(chunk / rate), "playback": playout.waits.summary_ms()},
            "algorithmic": milliseconds(codec.delay / rate),
            "computation": {"encode": encoder.times.summary_ms(), "decode": decoder.times.summary_ms()},
            "computation_and_queues": pipeline.summary_ms(),
            "device": {"input": milliseconds(source.latency_s), "output": milliseconds(sink.latency_s)},
        },
        "drop_outs": {
            "chunks_not_encoded": captured.dropped,
            "chunks_not_decoded": coded.dropped,
            **playout_drops(playout),
            "device_input": source.failures,
            "device_output": sink.failures,
        },
    }


def recording_pair(record: Name | None, rate_hz: int, channels: int) -> tuple[Recording | None, Recording | None]:
    """RECORD-input.wav and RECORD-output.wav."""
    if record is None:
        return None, None
    return (
        Recording(f"{record}-input.wav", rate_hz, channels),
        Recording(f"{record}-output.wav", rate_hz, channels),
    )


def describe(codec: Codec, codebooks: int) -> dict[str, Any]:
    """The model and what of it is used."""
    return {
        "model": codec.config.name,
        "sample_rate_hz": codec.sample_rate,
        "codebooks": codebooks,
        "kbps": round(codec.bitrate / 1000 * codebooks / codec.num_codebooks, 3),
    }


def playout_drops(playout: Playout) -> dict[str, Any]:
    """What was missing and too much at the loudspeaker."""
    return {
        "chunks_not_played": playout.overruns,
        "underruns": playout.underruns,
        "underrun_ms": milliseconds(playout.silent_samples / playout.rate_hz),
    }
