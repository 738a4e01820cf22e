"""Whole files through a codec in constant memory: audio to `.adjx` and back, lined up with what went in."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from adjax import audio, metrics, picture
from adjax.bitstream import (
    BitstreamError,
    Header,
    Reader,
    Writer,
    check_model,
    default_frames_per_block,
    short_name,
)
from adjax.chunks import Times, decoded, encoded
from adjax.errors import AdjaxError
from adjax.streaming import Codec

Name = str | os.PathLike[str]
Progress = Callable[[float, float | None], None]  # seconds of audio done and in all
QUALITY_LIMIT_S, QUALITY_CHANNELS, PICTURE_LIMIT_S = 60, 2, 10
MAX_CHANNELS = 255  # what the bitstream's header holds


@dataclass(frozen=True)
class EncodeReport:
    """What `encode_file` wrote; `samples` per channel at the input's rate."""

    samples: int
    channels: int
    sample_rate_hz: int
    frames: int
    payload_bits: int
    file_bytes: int
    times: Times

    @property
    def duration_s(self) -> float:
        return self.samples / self.sample_rate_hz

    @property
    def payload_kbps(self) -> float:
        return self.payload_bits / self.duration_s / 1000

    @property
    def file_kbps(self) -> float:
        return 8 * self.file_bytes / self.duration_s / 1000


@dataclass(frozen=True)
class DecodeReport:
    """What `decode_file` wrote; `warnings` names every damaged or missing part, `clipped` counts samples over 1."""

    samples: int
    channels: int
    sample_rate_hz: int
    clipped: int
    warnings: tuple[str, ...]
    times: Times

    @property
    def duration_s(self) -> float:
        return self.samples / self.sample_rate_hz


@dataclass(frozen=True)
class RoundtripReport:
    """Both ways, `metrics.quality` over the first QUALITY_LIMIT_S of QUALITY_CHANNELS at most, and the picture."""

    encode: EncodeReport
    decode: DecodeReport
    quality: dict[str, float]
    picture: Path


def encode_file(
    codec: Codec, source: Name, target: Name, codebooks: int | None = None, progress: Progress | None = None
) -> EncodeReport:
    """Codes of an audio file, of the leading `codebooks` or of all, as an `.adjx` file.

    Any rate and number of channels that libsndfile reads. Raises AdjaxError, and leaves no file, for what cannot be
    read, coded or written.
    """
    _check_distinct(source, target)
    with audio.open_audio(source) as reader, audio.replacing(target) as temporary, temporary.open("wb") as file:
        return _encode(codec, reader, file, codebooks, progress)


def decode_file(
    codec: Codec,
    source: Name,
    target: Name,
    model_rate: bool = False,
    skip_damaged: bool = False,
    progress: Progress | None = None,
) -> DecodeReport:
    """Audio of an `.adjx` file, with the samples, channels and sample rate of what was encoded.

    `model_rate` leaves out the resampling. Raises AdjaxError, and leaves no file, for another model's files and for any
    damage; with `skip_damaged`, damaged blocks become silence, what a truncated file lacks is missing at the end, and
    the report's `warnings` name both.
    """
    _check_distinct(source, target)
    try:
        with open(os.fspath(source), "rb") as file:
            return _decode(codec, file, source, target, model_rate, skip_damaged, progress)
    except OSError as error:
        raise AdjaxError(f"{os.fspath(source)}: {audio.os_reason(error)}") from None


def roundtrip_file(
    codec: Codec, source: Name, target: Name, codebooks: int | None = None, progress: Progress | None = None
) -> RoundtripReport:
    """Encodes and decodes an audio file; draws both spectrograms beside `target`, with the extension .png."""
    _check_distinct(source, target)
    with tempfile.TemporaryFile() as file:
        with audio.open_audio(source) as reader:
            written = _encode(codec, reader, file, codebooks, progress)
        restored = _decode(codec, file, source, target, False, False, progress)
    natural, coded = (_beginning(path) for path in (source, target))
    length = min(len(natural), len(coded))  # lossy formats may add to it
    scores = metrics.quality(natural[:length], coded[:length], restored.sample_rate_hz)
    seconds = PICTURE_LIMIT_S * restored.sample_rate_hz
    panels = {"input": natural[:seconds, 0], f"decoded, {written.payload_kbps:.1f} kbps": coded[:seconds, 0]}
    place = Path(target).with_suffix(".png")
    with audio.replacing(place) as temporary:
        picture.spectrograms(panels, restored.sample_rate_hz).save(temporary, format="PNG")
    return RoundtripReport(written, restored, scores, place)


# -------------------------------------------------------------------------------------------------------- encoding


def _encode(
    codec: Codec, reader: audio.AudioReader, file: BinaryIO, codebooks: int | None, progress: Progress | None
) -> EncodeReport:
    rate, hop = codec.sample_rate, codec.hop_length
    streams = _streams(codec, reader)
    codebooks = codec.num_codebooks if codebooks is None else codebooks
    if not 1 <= codebooks <= codec.num_codebooks:
        raise AdjaxError(f"codebooks is {codebooks}, but model '{codec.config.name}' has 1 to {codec.num_codebooks}")
    audio.check_rates(reader.path, reader.sample_rate_hz, rate)
    known = reader.samples
    try:
        header = Header(
            sample_rate_hz=rate,
            input_sample_rate_hz=reader.sample_rate_hz,
            channels=reader.channels,
            streams=streams,
            codebooks=codebooks,
            codebook_size=codec.codebook_size,
            hop_samples=hop,
            frames_per_block=default_frames_per_block(rate, hop, streams, codebooks),
            frames=None if known is None else _frames(codec, known, reader.sample_rate_hz),
            samples=known,
            fingerprint=codec.fingerprint,
            name=short_name(codec.config.name),
        )
    except BitstreamError as error:
        raise AdjaxError(f"{reader.path}: cannot be stored: {error}") from None
    writer, times, taken = Writer(file, header), Times(), 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal taken
        for block in reader.blocks():
            taken += len(block)
            yield block
            if progress:
                progress(taken / reader.sample_rate_hz, None if known is None else known / reader.sample_rate_hz)

    def padded() -> Iterator[np.ndarray]:
        """At the model's rate, with zeros up to whole hops and for the codec's delay."""
        given = 0
        for block in audio.resample(counted(), reader.sample_rate_hz, rate):
            given += len(block)
            yield block
        rest = _frames(codec, taken, reader.sample_rate_hz) * hop - given
        yield np.zeros((rest, reader.channels), np.float32)

    for codes in encoded(codec, padded(), streams, times, codebooks):
        writer.write(codes)
    writer.close(taken)  # what the header says, where that is known
    times.audio_s = taken / reader.sample_rate_hz
    bits = writer.frames * header.bits_per_frame
    return EncodeReport(taken, reader.channels, reader.sample_rate_hz, writer.frames, bits, file.tell(), times)


def _frames(codec: Codec, samples: int, rate_hz: int) -> int:
    """Frames that hold `samples` at `rate_hz`, and those that make up for the codec's delay."""
    length = audio.resampled_length(samples, rate_hz, codec.sample_rate)
    return -(-length // codec.hop_length) + -(-codec.delay // codec.hop_length)


# -------------------------------------------------------------------------------------------------------- decoding


def _decode(
    codec: Codec,
    file: BinaryIO,
    source: Name,
    target: Name,
    model_rate: bool,
    skip_damaged: bool,
    progress: Progress | None,
) -> DecodeReport:
    reader = Reader(file)
    header, warnings, times = reader.header, [], Times()
    _check_header(codec, header, os.fspath(source))
    try:
        reader.check_complete()
    except BitstreamError as error:
        if not skip_damaged:
            raise
        warnings.append(str(error))
    damaged: list[tuple[int, int]] = []  # frames from, to
    read = 0

    def rows() -> Iterator[np.ndarray]:
        """Codes, a row a frame; damaged blocks go on with the frame before them and are muted later."""
        nonlocal read
        last = np.zeros((1, header.streams * header.codebooks), np.int32)
        for block in reader.blocks():
            if block.codes is None:
                if not skip_damaged:
                    raise block.error or BitstreamError(f"block {block.index}: damaged")
                damaged.append((block.first_frame, block.first_frame + block.frames))
                warnings.append(f"{block.error}; replaced by silence")
                yield np.repeat(last, block.frames, axis=0)
            else:
                codes = block.codes.transpose(1, 0, 2).reshape(block.frames, -1)
                last = codes[-1:]
                yield codes
            read = block.first_frame + block.frames
            if progress:
                scale = header.hop_samples / header.sample_rate_hz
                progress(read * scale, None if reader.frames is None else reader.frames * scale)

    samples = reader.samples
    input_rate = header.input_sample_rate_hz
    wanted = None if samples is None else audio.resampled_length(samples, input_rate, codec.sample_rate)
    sound = _muted(decoded(codec, rows(), header.streams, header.codebooks, times), damaged, codec.hop_length)
    sound = _cut(sound, codec.delay, wanted)
    rate = codec.sample_rate if model_rate else input_rate
    length = wanted if model_rate else samples
    with audio.AudioWriter(target, rate, header.channels) as writer:
        for block in _cut(audio.resample(sound, codec.sample_rate, rate), 0, length):
            writer.write(block)
        if not writer.samples:
            raise BitstreamError(f"{os.fspath(source)}: holds no audio")
    if length is not None and writer.samples < length:
        warnings.append(
            f"{os.fspath(source)}: its {read} frames hold only {writer.samples} of the {length} samples that were "
            "encoded; the rest is missing at the end"
        )
    times.audio_s = read * header.hop_samples / header.sample_rate_hz
    return DecodeReport(writer.samples, header.channels, rate, writer.clipped, tuple(warnings), times)


def _check_header(codec: Codec, header: Header, source: str) -> None:
    """Refuses files of other models, and those that claim this one but do not fit it."""
    try:
        check_model(header, codec.fingerprint, codec.config.name)
        streams = header.channels if codec.audio_channels == 1 else 1
        found = (header.sample_rate_hz, header.hop_samples, header.codebook_size, header.streams)
        needed = (codec.sample_rate, codec.hop_length, codec.codebook_size, streams)
        fields = ("sample rate", "hop", "codebook size", "streams")
        for name, value, right in zip(fields, found, needed, strict=True):
            if value != right:
                raise BitstreamError(f"header: {name} is {value}, but model '{codec.config.name}' has {right}")
        if header.codebooks > codec.num_codebooks:
            raise BitstreamError(f"header: {header.codebooks} codebooks, but the model has {codec.num_codebooks}")
        if header.channels % codec.audio_channels:
            raise BitstreamError(f"header: {header.channels} channels, but the model codes {codec.audio_channels}")
    except BitstreamError as error:
        raise BitstreamError(f"{source}: {error}") from None
    audio.check_rates(source, header.sample_rate_hz, header.input_sample_rate_hz)


# --------------------------------------------------------------------------------------------------------- helpers


def _muted(blocks: Iterable[np.ndarray], damaged: list[tuple[int, int]], hop: int) -> Iterator[np.ndarray]:
    """Audio [samples, channels] with the hops of damaged frames silent; the list may grow ahead of the audio."""
    first = 0
    for block in blocks:
        for start, end in damaged:
            block[max(0, start * hop - first) : max(0, end * hop - first)] = 0
        first += len(block)
        yield block


def _cut(blocks: Iterable[np.ndarray], skip: int, length: int | None) -> Iterator[np.ndarray]:
    """Rows `skip` to `skip + length`; goes through all blocks, so that damage behind them is still found."""
    position = 0
    for block in blocks:
        end = len(block) if length is None else max(0, min(len(block), skip + length - position))
        part = block[max(0, skip - position) : end]
        position += len(block)
        if len(part):
            yield part


def _streams(codec: Codec, reader: audio.AudioReader) -> int:
    if reader.channels > MAX_CHANNELS:
        raise AdjaxError(f"{reader.path}: has {reader.channels} channels, but a bitstream holds {MAX_CHANNELS} at most")
    if codec.audio_channels == 1:
        return reader.channels
    if reader.channels != codec.audio_channels:
        raise AdjaxError(
            f"{reader.path}: has {reader.channels} channels, but model '{codec.config.name}' codes "
            f"{codec.audio_channels} together"
        )
    return 1


def _check_distinct(source: Name, target: Name) -> None:
    if os.path.exists(source) and os.path.exists(target) and os.path.samefile(source, target):
        raise AdjaxError(f"{os.fspath(target)}: is the input itself; give the output another name")


def _beginning(path: Name) -> np.ndarray:
    with audio.open_audio(path) as reader:
        blocks = list(reader.blocks(QUALITY_LIMIT_S * reader.sample_rate_hz))
    return np.concatenate(blocks)[:, :QUALITY_CHANNELS]
