"""Audio files in constant memory: checked blocks of samples in, resampling on the way, safely replaced files out."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile
import soxr

from adjax.errors import AdjaxError

BLOCK_VALUES = 1 << 17  # values (samples times channels) that a reader holds at once
MAX_RESAMPLING = 1024  # input to output rate or the other way
_UNKNOWN = 1 << 62  # libsndfile's frame counts from here on mean "not known"
_WAV_BYTES = (1 << 32) - (1 << 16)  # RIFF counts in 32 bits; some room for its header

# (format, subtype, whether samples go out as 16-bit integers) by file extension
_FORMATS = {
    ".wav": ("WAV", "PCM_16", True),
    ".flac": ("FLAC", "PCM_16", True),
    ".aif": ("AIFF", "PCM_16", True),
    ".aiff": ("AIFF", "PCM_16", True),
    ".au": ("AU", "PCM_16", True),
    ".caf": ("CAF", "PCM_16", True),
    ".rf64": ("RF64", "PCM_16", True),
    ".w64": ("W64", "PCM_16", True),
    ".ogg": ("OGG", "VORBIS", False),
    ".opus": ("OGG", "OPUS", False),
    ".mp3": ("MP3", "MPEG_LAYER_III", False),
}


def os_reason(error: OSError) -> str:
    """What went wrong, without the error's number and file."""
    return error.strerror or str(error) or type(error).__name__


# --------------------------------------------------------------------------------------------------------- reading


class AudioReader:
    """An open audio file; get one from `open_audio`.

    `samples` counts per channel as the file states it, None where it does not.
    """

    def __init__(self, path: Path, file: soundfile.SoundFile) -> None:
        self.path = path
        self.sample_rate_hz: int = file.samplerate
        self.channels: int = file.channels
        self.samples: int | None = file.frames if 0 <= file.frames < _UNKNOWN else None
        self._file = file

    def blocks(self, limit: int | None = None) -> Iterator[np.ndarray]:
        """Yields float32[samples, channels], the first `limit` samples or all, once.

        Raises AdjaxError, which says at which second, for samples that are not finite, cannot be read or are missing.
        """
        size, position = max(1, BLOCK_VALUES // self.channels), 0
        end = _UNKNOWN if limit is None else limit
        while position < end:
            try:
                block = self._file.read(min(size, end - position), dtype="float32", always_2d=True)
            except (RuntimeError, OSError) as error:
                raise AdjaxError(f"{self.path}: cannot be read {self._at(position)}: {error}") from None
            if not len(block):
                break
            finite = np.isfinite(block)
            if not finite.all():
                row, channel = (int(v) for v in np.argwhere(~finite)[0])
                raise AdjaxError(
                    f"{self.path}: sample {position + row} of channel {channel} ({self._at(position + row)}) is "
                    f"{block[row, channel]}, but samples must be finite numbers"
                )
            position += len(block)
            yield block
        if position < end and self.samples is not None and position != self.samples:
            raise AdjaxError(
                f"{self.path}: truncated or damaged: {position} samples could be read, but its header says "
                f"{self.samples}"
            )
        if not position:
            raise AdjaxError(f"{self.path}: holds no samples")

    def _at(self, position: int) -> str:
        return f"at {position / self.sample_rate_hz:.3f} s"


@contextmanager
def open_audio(path: str | os.PathLike[str]) -> Iterator[AudioReader]:
    """An audio file of any format, rate and channel count that libsndfile reads, open for `AudioReader.blocks`.

    Raises AdjaxError for a file that is missing, a folder, empty, not audio, without samples, or may not be read.
    """
    path = Path(path)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise AdjaxError(f"{path}: is a folder, but an audio file is needed")
        if not stat.S_ISREG(status.st_mode):
            raise AdjaxError(f"{path}: is not a regular file; store the audio in one first")
        if not status.st_size:
            raise AdjaxError(f"{path}: is empty (0 bytes), but an audio file is needed")
        with path.open("rb"):  # libsndfile would report a missing permission as "System error"
            pass
    except OSError as error:
        raise AdjaxError(f"{path}: {os_reason(error)}") from None
    try:
        file = soundfile.SoundFile(path)
    except (RuntimeError, TypeError, ValueError) as error:  # TypeError: headerless formats, for which it needs a rate
        reason = getattr(error, "error_string", "raw samples without a header")
        raise AdjaxError(
            f"{path}: not an audio file that libsndfile reads, such as WAV, FLAC, OGG or MP3 ({reason.rstrip('.')})"
        ) from None
    with file:
        if not file.frames:
            raise AdjaxError(f"{path}: holds no samples")
        yield AudioReader(path, file)


# ------------------------------------------------------------------------------------------------------ resampling


def resampled_length(samples: int, from_hz: int, to_hz: int) -> int:
    """Samples that `resample` makes of `samples`: the duration rounded up."""
    return -(-samples * to_hz // from_hz)


def check_rates(path: str | os.PathLike[str], from_hz: int, to_hz: int) -> None:
    """Raises AdjaxError, which names the file, for rates too far apart to resample in bounded memory."""
    if max(from_hz, to_hz) > MAX_RESAMPLING * min(from_hz, to_hz):
        raise AdjaxError(
            f"{path}: cannot resample {from_hz} Hz to {to_hz} Hz: the rates may differ by a factor of "
            f"{MAX_RESAMPLING} at most"
        )


def resample(blocks: Iterable[np.ndarray], from_hz: int, to_hz: int) -> Iterator[np.ndarray]:
    """Yields float32[samples, channels] blocks at another rate, in step with the input, `resampled_length` in all.

    High-quality linear-phase filtering by soxr, the same for every division into blocks.
    """
    if from_hz == to_hz:
        yield from blocks
        return
    stream, taken, given, channels = None, 0, 0, 0
    for block in blocks:
        if stream is None:
            channels = block.shape[1]
            stream = soxr.ResampleStream(from_hz, to_hz, channels, dtype="float32", quality="HQ")
        piece = max(1, BLOCK_VALUES * from_hz // (to_hz * channels))  # so that what comes out is no larger
        for start in range(0, len(block), piece):
            part = block[start : start + piece]
            out = stream.resample_chunk(np.ascontiguousarray(part, np.float32))
            taken, given = taken + len(part), given + len(out)
            if len(out):
                yield out
    if stream is None:
        return
    rest = resampled_length(taken, from_hz, to_hz) - given
    tail = np.zeros((rest, channels), np.float32)
    out = stream.resample_chunk(np.empty((0, channels), np.float32), last=True)[:rest]
    tail[: len(out)] = out  # soxr rounds the length: the last sample may be missing
    if rest:
        yield tail


def rechunk(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Yields the same rows in blocks of exactly `size`, the last one as long as what is left."""
    held: list[np.ndarray] = []
    count = 0
    for block in blocks:
        while len(block):
            part = block[: size - count]
            held.append(part)
            count += len(part)
            block = block[len(part) :]
            if count == size:
                yield np.concatenate(held)
                held, count = [], 0
    if held:
        yield np.concatenate(held)


# --------------------------------------------------------------------------------------------------------- writing


@contextmanager
def replacing(target: str | os.PathLike[str]) -> Iterator[Path]:
    """A new empty file beside `target` that takes its place on success and goes on failure.

    Raises AdjaxError where nothing can be written there, for targets that are not regular files, and for any OSError
    inside the block, such as a full disk.
    """
    target = Path(target)
    place = Path(os.path.realpath(target))  # a link stays a link
    try:
        if os.path.lexists(place) and not place.is_file():
            kind = "a folder" if place.is_dir() else "not a regular file"
            raise AdjaxError(f"{target}: is {kind}, but the name of a file to write is needed")
        temporary = place.with_name(f".adjax-{secrets.token_hex(6)}.tmp")
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise AdjaxError(f"{target}: cannot be written: {os_reason(error)}") from None
    try:
        yield temporary
        os.replace(temporary, place)
    except OSError as error:
        raise AdjaxError(f"{target}: cannot be written: {os_reason(error)}") from None
    finally:
        temporary.unlink(missing_ok=True)


class AudioWriter:
    """Writes an audio file whose format its extension names: 16-bit PCM for .wav, .flac and their like, .ogg, .opus.

    A context manager: on success the file takes its place, on failure nothing is left. Samples outside [-1, 1] are
    clipped and counted in `clipped`. Raises AdjaxError for unknown extensions, for what the format cannot hold, and
    where the disk is full.
    """

    def __init__(self, target: str | os.PathLike[str], sample_rate_hz: int, channels: int) -> None:
        self.target = Path(target)
        self.samples: int = 0
        self.clipped: int = 0
        suffix = self.target.suffix.lower()
        if suffix not in _FORMATS:
            raise AdjaxError(
                f"{self.target}: cannot write audio with the extension '{suffix}'; use one of {', '.join(_FORMATS)}"
            )
        self._format, self._subtype, self._integers = _FORMATS[suffix]
        self._rate, self._channels = sample_rate_hz, channels

    def __enter__(self) -> AudioWriter:
        self._place = replacing(self.target)
        self._temporary = self._place.__enter__()
        try:
            with self._explained():
                self._file = soundfile.SoundFile(
                    self._temporary, "w", self._rate, self._channels, self._subtype, format=self._format
                )
        except BaseException as error:
            self._place.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def write(self, audio: np.ndarray) -> None:
        """Appends float32[samples, channels]."""
        if not np.isfinite(audio).all():
            raise AdjaxError(f"{self.target}: the model's output is not finite; its weights are damaged")
        self.clipped += int(np.count_nonzero(np.abs(audio) > 1))
        values = np.clip(audio, -1, 1)
        if self._integers:  # scaled here, so that 16-bit files that are only read and written stay as they are
            values = np.clip(np.rint(audio * 32768), -32768, 32767).astype(np.int16)
            total = 2 * (self.samples + len(audio)) * self._channels
            if self._format == "WAV" and total > _WAV_BYTES:
                raise AdjaxError(f"{self.target}: longer than a .wav file can be (4 GiB); use .w64, .rf64 or .flac")
        with self._explained():
            self._file.write(values)
        self.samples += len(audio)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._explained():
                self._file.close()
                if kind is None and self._integers:  # a disk that fills up at the very end goes unreported
                    held = soundfile.info(self._temporary).frames
                    if held != self.samples:
                        raise AdjaxError(f"{self.target}: only {held} of {self.samples} samples could be written")
        except AdjaxError as late:
            self._place.__exit__(type(late), late, late.__traceback__)
            if kind is None:
                raise
            return
        self._place.__exit__(kind, error, trace)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except AdjaxError:
            raise
        except AssertionError:  # soundfile asserts that libsndfile took all samples
            raise AdjaxError(f"{self.target}: cannot be written: no space left on the device?") from None
        except (RuntimeError, ValueError, OSError) as error:
            reason = getattr(error, "error_string", str(error)).rstrip(".")
            what = f"{self._rate} Hz, {self._channels} channels as {self._format} {self._subtype}"
            raise AdjaxError(f"{self.target}: cannot be written ({what}): {reason}") from None
