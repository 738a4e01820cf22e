"""Training crops from folders of audio files: deterministic, random access by batch number, the same for any hosts."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import soxr

from adjax.config import Data
from adjax.errors import AdjaxError

if TYPE_CHECKING:
    import grain

SUFFIXES = (".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".rf64", ".w64", ".wav")
RESAMPLER_MARGIN_SAMPLES = 128  # at the lower of the two rates: a resampled span then equals the resampled file to 2e-7
UNKNOWN_FRAMES = 2**62  # libsndfile's length of a FLAC stream whose header has none is 2^63 - 1
ATTEMPTS = 16  # unreadable crops in a row before the run stops: by then it is the disk, not a file

Batch = np.ndarray | tuple[np.ndarray, np.ndarray]  # audio, or what the model hears and what it is to give

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """An audio file as its header describes it: `frames` samples a channel at its own sample rate."""

    path: Path
    frames: int
    sample_rate_hz: int
    channels: int
    noisy: Path | None = None  # the same with noise: a file of the same length, rate and channels

    def samples(self, sample_rate_hz: int) -> int:
        """Length in whole samples after resampling to `sample_rate_hz`."""
        return self.frames * sample_rate_hz // self.sample_rate_hz


@dataclass(frozen=True)
class Report:
    """What `scan` found: the number of usable files, their duration, and the files left out by reason."""

    usable: int
    seconds: float
    minimum_samples: int
    too_short: tuple[Path, ...] = ()
    unreadable: tuple[Path, ...] = ()
    other_channels: tuple[Path, ...] = ()

    def __str__(self) -> str:
        """One paragraph with the counts and an example of each kind left out."""
        parts = [f"{_files(self.usable)} usable ({self.seconds / 3600:.2f} h)"]
        for paths, reason in (
            (self.too_short, f"left out as not longer than {self.minimum_samples} samples"),
            (self.unreadable, "left out as unreadable"),
            (self.other_channels, "left out for another channel count"),
        ):
            if paths:
                parts.append(f"{_files(len(paths))} {reason} (such as {paths[0]})")
        return "; ".join(parts) + "."


def _files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"


# ---------------------------------------------------------------------------------------------------------- files


def find_audio(paths: Sequence[str | Path]) -> list[Path]:
    """The audio files that `paths` stand for, each once, in an order that does not depend on the file system.

    A folder gives the audio files below it, by name; hidden ones, such as the `._x.wav` that macOS leaves, are skipped.
    A `.txt` file gives one path a line, relative to the list's folder; empty lines and lines that start with # do not
    count. Any other file is taken as it is. Raises AdjaxError for a path that does not exist.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            below = [p.relative_to(path) for p in path.rglob("*") if p.suffix.lower() in SUFFIXES]
            visible = [p for p in below if not any(part.startswith(".") for part in p.parts)]
            found.update(dict.fromkeys(path / p for p in sorted(visible, key=lambda p: p.parts)))
        elif not path.is_file():
            raise AdjaxError(f"{path}: no such file or folder; give folders, audio files or lists of files (.txt)")
        elif path.suffix.lower() == ".txt":
            found.update(dict.fromkeys(_read_list(path)))
        else:
            found[path] = None
    return list(found)


def _read_list(path: Path) -> list[Path]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise AdjaxError(f"{path}: not a list of files: byte {error.start} is not UTF-8 text") from error
    names = [line.strip() for line in lines]
    return [path.parent / name for name in names if name and not name.startswith("#")]


def scan(
    paths: Sequence[str | Path], sample_rate_hz: int, channels: int, minimum_samples: int
) -> tuple[list[Source], Report]:
    """Read every header below `paths` and keep the files that a model of this rate and channel count can train on.

    A file must be longer than `minimum_samples` samples at the model's rate. A mono model takes files of any channel
    count, any other model only files of its own. Raises AdjaxError, saying where it looked, if no file is usable.
    """
    sources: list[Source] = []
    too_short: list[Path] = []
    unreadable: list[Path] = []
    other_channels: list[Path] = []
    for path in find_audio(paths):
        source = _read_header(path)
        if source is None:
            unreadable.append(path)
        elif channels not in (1, source.channels):
            other_channels.append(path)
        elif source.samples(sample_rate_hz) <= minimum_samples:
            too_short.append(path)
        else:
            sources.append(source)
    report = Report(
        usable=len(sources),
        seconds=sum(s.frames / s.sample_rate_hz for s in sources),
        minimum_samples=minimum_samples,
        too_short=tuple(too_short),
        unreadable=tuple(unreadable),
        other_channels=tuple(other_channels),
    )
    if not sources:
        looked = ", ".join(map(str, paths)) or "no paths (data.train and data.validation name them)"
        raise AdjaxError(f"no usable audio in {looked}: {report}")
    return sources, report


def _read_header(path: Path) -> Source | None:
    """What libsndfile says about `path`; None if it cannot open it, needs telling what it is, or knows no length."""
    try:
        info = soundfile.info(path)
    except (soundfile.LibsndfileError, OSError, TypeError):  # TypeError: headerless .raw
        return None
    return None if info.frames >= UNKNOWN_FRAMES else Source(path, info.frames, info.samplerate, info.channels)


def pair(sources: Sequence[Source], clean: Sequence[str | Path], noisy: Sequence[str | Path]) -> list[Source]:
    """Each source, found below `clean`, with its counterpart below `noisy`.

    `noisy` has a folder for each entry of `clean` (or one for all), in which a file has the path that its counterpart
    has in the folder of `clean`, beside the list, or as a single file its name. Raises AdjaxError for what is missing
    or is not equally long.
    """
    if len(noisy) not in (1, len(clean)):
        raise AdjaxError(f"data.noisy has {len(noisy)} folders, but must have 1, or {len(clean)} as data.train")
    for folder in map(Path, noisy):
        if not folder.is_dir():
            raise AdjaxError(f"data.noisy: {folder}: no such folder; it must hold a file for each one in data.train")
    places: dict[Path, Path] = {}
    for entry, folder in zip(map(Path, clean), list(map(Path, noisy)) * (len(clean) // len(noisy)), strict=True):
        root = entry if entry.is_dir() else entry.parent
        for path in find_audio([entry]):
            places.setdefault(path, folder / (path.relative_to(root) if path.is_relative_to(root) else path.name))
    return [_paired(source, places[source.path]) for source in sources]


def _paired(source: Source, noisy: Path) -> Source:
    if not noisy.is_file():
        raise AdjaxError(f"data.noisy: {noisy}: no such file, but {source.path} needs its noisy version there")
    found = _read_header(noisy)
    if found is None:
        raise AdjaxError(f"data.noisy: {noisy}: cannot be read as audio")
    for what, theirs, ours in (
        ("samples", found.frames, source.frames),
        ("Hz", found.sample_rate_hz, source.sample_rate_hz),
        ("channels", found.channels, source.channels),
    ):
        if theirs != ours:
            raise AdjaxError(
                f"data.noisy: {noisy} has {theirs} {what}, but {source.path} has {ours}; pairs must be equally long "
                "and of one format"
            )
    return replace(source, noisy=noisy)


# ---------------------------------------------------------------------------------------------------------- crops


def crops(
    sources: Sequence[Source],
    data: Data,
    *,
    sample_rate_hz: int,
    channels: int,
    seed: int,
    shard: tuple[int, int] = (0, 1),
    noise: Sequence[Source] = (),
    on_unreadable: Callable[[Path], None] | None = None,
) -> grain.MapDataset[Any]:
    """A dataset whose element k is batch k: float32[batch_size / hosts, context + crop, channels], at the model's rate.

    With paired sources, or with `noise` (files longer than context and crop), it is a pair of such: what the model
    hears, and the clean audio. Noise is a random crop of a random file, at a signal-to-noise ratio uniform in
    `data.snr_db`, over the crop with its context.

    `shard` is (host, number of hosts). Host h holds rows h*b to (h+1)*b - 1 of the global batch, so the hosts' batches
    in order are the batch of a single host, and batch k depends on `seed` and k alone. Each file gives one crop an
    epoch, in an order shuffled anew each time, for ever. A crop starts at any sample with equal chance; the
    context is what precedes it in the file, with zeros before the file's first sample. The gain is uniform in dB.

    A crop that cannot be read any more, or is not finite, is logged, reported to `on_unreadable` (called from the
    reading threads) and replaced by one from another file, which again depends on `seed` and the position alone.
    """
    import grain

    host, hosts = shard
    if data.batch_size % hosts:
        raise AdjaxError(f"data.batch_size ({data.batch_size}) must be a multiple of the number of hosts ({hosts})")
    rows = data.batch_size // hosts
    seed = seed % 2**32

    def crop(row: tuple[int, int]) -> list[np.ndarray]:
        position, index = row
        rng = np.random.default_rng((seed, position))
        for _ in range(ATTEMPTS):
            source = sources[index]
            try:
                clean = _draw_crop(rng, source, data, sample_rate_hz, channels)
                if source.noisy is not None or not noise:
                    return clean
                return [_with_noise(rng, clean[0], noise, data, sample_rate_hz, channels), clean[0]]
            except (soundfile.LibsndfileError, OSError, _Damaged) as error:
                _log.warning("%s cannot be read any more and is left out of this batch: %s", source.path, error)
                if on_unreadable:
                    on_unreadable(source.path)
            index = int(rng.integers(len(sources)))
        raise AdjaxError(f"{ATTEMPTS} crops in a row could not be read: are the {_files(len(sources))} still there?")

    # Rows are numbered before hosts take their part of a batch, so the number of hosts cannot change what is drawn.
    rows_of_all_hosts = grain.MapDataset.source(range(len(sources))).seed(seed).shuffle().repeat()
    numbered = rows_of_all_hosts.map_with_index(lambda position, index: (position, index))
    batched = numbered.batch(data.batch_size, drop_remainder=True, batch_fn=list)

    def stacked(batch: list[tuple[int, int]]) -> Batch:
        columns = [np.stack(c) for c in zip(*map(crop, batch[host * rows : (host + 1) * rows]), strict=True)]
        return columns[0] if len(columns) == 1 else (columns[0], columns[1])

    return batched.map(stacked)


def heard(batch: Batch) -> np.ndarray:
    """The part of a batch that the model hears."""
    return batch[0] if isinstance(batch, tuple) else batch


def batches(dataset: grain.MapDataset[Any], start_step: int = 0, threads: int | None = None) -> Iterator[Batch]:
    """The batches of `dataset` from number `start_step` on, read ahead by `threads` (None: one a core, at most 8).

    Order and content do not depend on the number of threads; 0 reads in the calling thread. The iterator's `close`
    ends its threads.
    """
    import grain

    threads = min(os.cpu_count() or 1, 8) if threads is None else threads
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    iterator = iter(dataset.to_iter_dataset(options))
    iterator.set_state({"next_index": start_step})
    return iterator


class _Damaged(Exception):
    """A file that opens but does not hold what its header promised."""


def _draw_crop(
    rng: np.random.Generator, source: Source, data: Data, sample_rate_hz: int, channels: int
) -> list[np.ndarray]:
    """A random crop of `source` with context and gain, float32[context + crop, channels]; the noisy one first."""
    start = int(rng.integers(source.samples(sample_rate_hz) - data.crop_samples + 1))
    channel = int(rng.integers(source.channels)) if channels == 1 else None
    gain = np.float32(10.0 ** (rng.uniform(*data.gain_db) / 20))
    context = min(start, data.context_samples)
    padding = ((data.context_samples - context, 0), (0, 0))
    crops = []
    for path in (source.path,) if source.noisy is None else (source.noisy, source.path):
        span = replace(source, path=path)
        audio = _finite_span(span, start - context, context + data.crop_samples, sample_rate_hz, channel)
        crops.append(np.pad(audio, padding) * gain)
    return crops


def _with_noise(
    rng: np.random.Generator,
    clean: np.ndarray,
    noise: Sequence[Source],
    data: Data,
    sample_rate_hz: int,
    channels: int,
) -> np.ndarray:
    """A clean crop [samples, channels] with a random crop of a random file of noise at a random ratio."""
    source = noise[int(rng.integers(len(noise)))]
    start = int(rng.integers(source.samples(sample_rate_hz) - len(clean) + 1))
    channel = int(rng.integers(source.channels)) if channels == 1 else None
    snr_db = rng.uniform(*data.snr_db)
    added = _finite_span(source, start, len(clean), sample_rate_hz, channel)
    power, noise_power = (np.mean(np.square(x, dtype=np.float64)) for x in (clean, added))
    gain = math.sqrt(power / max(noise_power, 1e-20) * 10.0 ** (-snr_db / 10)) if noise_power else 0.0
    return clean + added * np.float32(gain)


def _finite_span(source: Source, start: int, samples: int, sample_rate_hz: int, channel: int | None) -> np.ndarray:
    """As `_read_span`, of one channel or of all (None), and certain to be numbers."""
    audio = _read_span(source, start, samples, sample_rate_hz)
    if not np.isfinite(audio).all():
        raise _Damaged("it holds samples that are not finite")
    return audio if channel is None else audio[:, channel : channel + 1]


def _read_span(source: Source, start: int, samples: int, sample_rate_hz: int) -> np.ndarray:
    """`samples` samples from `start` on, both counted at `sample_rate_hz`: float32[samples, channels of the file]."""
    if source.sample_rate_hz == sample_rate_hz:
        return _read_frames(source, start, samples)
    common = math.gcd(source.sample_rate_hz, sample_rate_hz)
    up, down = sample_rate_hz // common, source.sample_rate_hz // common
    # Read from a multiple of `down` frames, which falls on a whole output sample: the resampler's phase is then exact.
    margin = math.ceil(RESAMPLER_MARGIN_SAMPLES * max(1.0, sample_rate_hz / source.sample_rate_hz) / up)
    first = max(start // up - margin, 0)
    last = math.ceil((start + samples) / up) + margin
    frames = min(last * down, source.frames) - first * down
    audio = soxr.resample(_read_frames(source, first * down, frames), source.sample_rate_hz, sample_rate_hz)
    return audio[start - first * up :][:samples]


def _read_frames(source: Source, start: int, frames: int) -> np.ndarray:
    audio, rate = soundfile.read(source.path, start=start, frames=frames, dtype="float32", always_2d=True)
    if (rate, audio.shape[1]) != (source.sample_rate_hz, source.channels):
        raise _Damaged("its sample rate or channel count is no longer what it was")
    if len(audio) != frames:
        raise _Damaged(f"it ends before frame {start + frames}, though its header promised {source.frames} frames")
    return audio
