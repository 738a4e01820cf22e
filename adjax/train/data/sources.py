"""Which audio there is to train on: folders, lists and prepared sets, by what their headers and indices say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import soundfile

from adjax.errors import AdjaxError
from adjax.train.data.prepared import Records, read_index

SUFFIXES = (".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".rf64", ".w64", ".wav")
UNKNOWN_FRAMES = 2**62  # libsndfile's length of a FLAC stream whose header has none is 2^63 - 1


@dataclass(frozen=True)
class Source:
    """An audio file as its header or index describes it: `frames` samples a channel at its own sample rate.

    One of a prepared set is named by the set's entry and its path there, and lies in `records` from `first_record` on.
    """

    path: Path
    frames: int
    sample_rate_hz: int
    channels: int
    noisy: Source | None = None  # the same with noise: of the same length, rate and channels
    records: Records | None = field(default=None, compare=False, repr=False)
    first_record: int = 0
    speed: float = 1.0
    held: np.ndarray | None = field(default=None, compare=False, repr=False)  # its samples: see `reading.hold`

    @property
    def played_rate_hz(self) -> int:
        """The sample rate at which it is played: its own, times its speed."""
        return round(self.sample_rate_hz * self.speed)

    @property
    def held_bytes(self) -> int:
        """What its samples in memory take, and those of its noisy version."""
        return (0 if self.held is None else self.held.nbytes) + (self.noisy.held_bytes if self.noisy else 0)

    def samples(self, sample_rate_hz: int) -> int:
        """Length in whole samples after resampling to `sample_rate_hz`."""
        return self.frames * sample_rate_hz // self.played_rate_hz

    def played(self, speed: float) -> Source:
        """The same at another speed and so another pitch, its noisy version likewise."""
        return replace(self, speed=speed, noisy=self.noisy and self.noisy.played(speed))


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
        parts = [f"{files(self.usable)} usable ({self.seconds / 3600:.2f} h)"]
        for paths, reason in (
            (self.too_short, f"left out as not longer than {self.minimum_samples} samples"),
            (self.unreadable, "left out as unreadable"),
            (self.other_channels, "left out for another channel count"),
        ):
            if paths:
                parts.append(f"{files(len(paths))} {reason} (such as {paths[0]})")
        return "; ".join(parts) + "."


def files(count: int) -> str:
    """The number with its noun."""
    return f"{count} file{'' if count == 1 else 's'}"


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
            raise AdjaxError(
                f"{path}: no such file or folder; give folders, audio files, lists of files (.txt) or prepared sets"
            )
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
    paths: Sequence[str | Path], sample_rate_hz: int, channels: int, minimum_samples: int, speed: float = 1.0
) -> tuple[list[Source], Report]:
    """Read every header below `paths` and keep the files that a model of this rate and channel count can train on.

    `paths` are those of `find_audio`, or prepared sets as DIR:SPLIT, which must be at the model's rate. A file must be
    longer than `minimum_samples` samples at the model's rate, played at `speed`. A mono model takes files of any
    channel count, any other model only files of its own. Raises AdjaxError, saying where it looked, if no file is
    usable.
    """
    sources: list[Source] = []
    too_short: list[Path] = []
    unreadable: list[Path] = []
    other_channels: list[Path] = []
    for path, source in _candidates(paths, sample_rate_hz):
        if source is None:
            unreadable.append(path)
        elif channels not in (1, source.channels):
            other_channels.append(path)
        elif source.played(speed).samples(sample_rate_hz) <= minimum_samples:
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


def _candidates(paths: Sequence[str | Path], sample_rate_hz: int) -> Iterator[tuple[Path, Source | None]]:
    """Each file that `paths` stand for, once, with its source, or None if it cannot be read."""
    seen: set[Path] = set()
    for entry in paths:
        prepared = read_prepared(entry, sample_rate_hz)
        found = find_audio([entry]) if prepared is None else prepared
        for item in found:
            path, source = (item.path, item) if isinstance(item, Source) else (item, None)
            if path not in seen:
                seen.add(path)
                yield path, source or read_header(path)


def read_prepared(entry: str | Path, sample_rate_hz: int | None = None) -> list[Source] | None:
    """The files of the prepared set that DIR or DIR:SPLIT stands for; None if it stands for none.

    Raises AdjaxError for a set that is damaged or, where a rate is given, at another one.
    """
    found = read_index(entry, sample_rate_hz)
    if found is None:
        return None
    marker, records, entries = found
    sources, first = [], 0
    for e in entries:
        path, rate = Path(entry) / e.path, marker.sample_rate_hz
        sources.append(Source(path, e.samples, rate, e.channels, records=records, first_record=first))
        first += e.records(marker.segment_samples)
    return sources


def read_header(path: Path) -> Source | None:
    """What libsndfile says about `path`; None if it cannot open it, needs telling what it is, or knows no length."""
    try:
        info = soundfile.info(path)
    except (soundfile.LibsndfileError, OSError, TypeError):  # TypeError: headerless .raw
        return None
    return None if info.frames >= UNKNOWN_FRAMES else Source(path, info.frames, info.samplerate, info.channels)
