"""Prepared sets: the folder that `adjax prepare` writes, and reading any span of any of its files.

`prepared.json` says what the set is, `index/SPLIT.tsv` which files each split holds in the order of their records, and
the records, int16 segments of equal length but for each file's last, lie in ArrayRecord files below `NAME/1.0.0`, as
tensorflow-datasets writes and reads them. None of it needs TensorFlow.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adjax.errors import AdjaxError
from adjax.strict_json import from_dict, require

MARKER = "prepared.json"
SPLITS = ("train", "validation", "test")
VERSION = "1.0.0"  # of the data set in the sense of tensorflow-datasets
_COLUMNS = "path\tspeaker\tsamples\tchannels"


class Damaged(Exception):
    """A file or record that opens but does not hold what its header or index promised."""


@dataclass(frozen=True)
class Split:
    """One split of a prepared set."""

    name: str
    files: int
    records: int
    samples: int  # a channel, over all files

    def __post_init__(self) -> None:
        require(self.name in SPLITS, f"splits: '{self.name}' is none of {', '.join(SPLITS)}")


@dataclass(frozen=True)
class Prepared:
    """What `prepared.json` says."""

    name: str
    sample_rate_hz: int
    segment_samples: int
    layout: str
    splits: tuple[Split, ...]
    format: int = 1

    def __post_init__(self) -> None:
        require(self.format == 1, f"format is {self.format}, but this version of adjax reads format 1")
        require(self.sample_rate_hz > 0 and self.segment_samples > 0, "rate and segment length must be positive")


class Entry(NamedTuple):
    """A file of a prepared set; `samples` a channel, at the set's sample rate."""

    path: str  # in its corpus, with /
    speaker: str
    samples: int
    channels: int

    def records(self, segment_samples: int) -> int:
        """Records that hold it: the last may be shorter than the others."""
        return -(-self.samples // segment_samples)


def format_index(entries: Sequence[Entry]) -> str:
    return "".join(f"{line}\n" for line in (_COLUMNS, *("\t".join(map(str, e)) for e in entries)))


def parse_index(text: str, where: str) -> list[Entry]:
    """The entries that `format_index` wrote; raises AdjaxError, which gives `where` and the line."""
    header, *lines = text.split("\n")
    if header != _COLUMNS or lines[-1:] != [""]:
        raise AdjaxError(f"{where}: not an index of a prepared set, or cut short; prepare the set again")
    entries = []
    for number, line in enumerate(lines[:-1], start=2):
        fields = line.split("\t")
        if len(fields) != 4 or not all(f.isascii() and f.isdigit() and int(f) for f in fields[2:]):
            raise AdjaxError(f"{where}: line {number} must hold path, speaker, samples and channels")
        entries.append(Entry(fields[0], fields[1], int(fields[2]), int(fields[3])))
    return entries


class Records:
    """The records of a split in order; opened at the first read, which may come from any thread."""

    def __init__(self, folder: Path, split: str, segment_samples: int, count: int) -> None:
        self.folder, self.split, self.segment_samples, self.count = folder, split, segment_samples, count
        self._lock = threading.Lock()
        self._source: Any = None

    def read(self, first: int, start: int, frames: int) -> np.ndarray:
        """`frames` samples from `start` on of the file whose records begin at `first`: int16[samples, channels].

        Raises Damaged where the records do not hold them, AdjaxError if the split cannot be opened.
        """
        size, parts = self.segment_samples, []
        for segment in range(start // size, -(-(start + frames) // size)):
            record = self.record(first + segment)
            if record["start"] != segment * size:
                raise Damaged(f"record {first + segment} is not the one that the index promises")
            parts.append(record["audio"])
        held = np.concatenate(parts)[start % size :][:frames]
        if len(held) != frames:
            raise Damaged(f"its records end before sample {start + frames}")
        return held

    def record(self, number: int) -> dict[str, Any]:
        """One record as tensorflow-datasets decodes it; Damaged if it cannot be read."""
        source = self._opened()
        try:
            return source[number]
        except Exception as error:  # array_record and protobuf raise what they like
            raise Damaged(f"record {number} cannot be read: {error}") from error

    def _opened(self) -> Any:
        with self._lock:
            if self._source is None:
                import tensorflow_datasets as tfds

                try:
                    builder: Any = tfds.builder_from_directory(self.folder)
                    source = builder.as_data_source(split=self.split)
                    held = len(source)
                except Exception as error:
                    raise AdjaxError(f"{self.folder}: split {self.split} cannot be read: {error}") from error
                if held != self.count:
                    raise AdjaxError(
                        f"{self.folder}: split {self.split} holds {held} records, but its index promises {self.count}; "
                        "prepare the set again"
                    )
                self._source = source
            return self._source


def place(entry: str | Path) -> tuple[Path, str] | None:
    """Folder and split ("" where none is named) that DIR or DIR:SPLIT stands for; None if it is no prepared set."""
    path = Path(entry)
    if path.exists():
        return (path, "") if (path / MARKER).is_file() else None
    folder, colon, split = str(entry).rpartition(":")
    return (Path(folder), split) if colon and (Path(folder) / MARKER).is_file() else None


def read_marker(folder: Path) -> Prepared:
    """What a prepared set is; AdjaxError names the file if it does not say so."""
    path = folder / MARKER
    try:
        return from_dict(Prepared, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:  # AdjaxError and JSONDecodeError are ValueErrors
        raise AdjaxError(f"{path}: not a description of a prepared set: {error}") from error


def read_index(entry: str | Path, sample_rate_hz: int | None = None) -> tuple[Prepared, Records, list[Entry]] | None:
    """What DIR or DIR:SPLIT stands for: the set, the split's records and its files; None if it is no prepared set.

    A split must be named unless there is only one. Raises AdjaxError for a split that is not there, a damaged index,
    and a set at another rate than `sample_rate_hz`.
    """
    found = place(entry)
    if found is None:
        return None
    folder, split = found
    marker = read_marker(folder)
    names = [s.name for s in marker.splits]
    if not split and len(names) == 1:
        split = names[0]
    if split not in names:
        what = f"has no split '{split}'" if split else "is a prepared set of several splits"
        raise AdjaxError(f"{folder}: {what}; name one of {', '.join(f'{folder}:{n}' for n in names)}")
    if sample_rate_hz not in (None, marker.sample_rate_hz):
        raise AdjaxError(
            f"{folder}: prepared at {marker.sample_rate_hz} Hz, but the model's sample rate is {sample_rate_hz} Hz; "
            f"prepare the set with --rate {sample_rate_hz}"
        )
    path = folder / "index" / f"{split}.tsv"
    try:
        entries = parse_index(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise AdjaxError(f"{path}: cannot be read: {error}") from error
    wanted = next(s for s in marker.splits if s.name == split)
    count = sum(e.records(marker.segment_samples) for e in entries)
    if (len(entries), count) != (wanted.files, wanted.records):
        raise AdjaxError(
            f"{path}: {len(entries)} files in {count} records, but {MARKER} says {wanted.files} in {wanted.records}"
        )
    return marker, Records(folder / marker.name / VERSION, split, marker.segment_samples, count), entries
