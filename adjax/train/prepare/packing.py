"""Packing recordings into ArrayRecord files by tensorflow-datasets, without TensorFlow, all or nothing."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adjax.errors import AdjaxError
from adjax.strict_json import to_json
from adjax.train.data import Source, read_header
from adjax.train.data.prepared import (
    MARKER,
    SPLITS,
    Damaged,
    Entry,
    Prepared,
    Split,
    format_index,
    read_index,
)
from adjax.train.prepare.builder import make_builder
from adjax.train.prepare.layouts import LAYOUTS, MICROPHONES, Recording, find
from adjax.train.prepare.lists import Listed, format_list, read_lists
from adjax.train.prepare.recordings import Decoded, Refused, decode

SHARD_BYTES = 128 << 20  # of samples: what a preparation holds in memory, more or less
SEGMENT_SECONDS = 1.0
LOGGED = 10  # recordings left out that are named one by one

Progress = Callable[[float, float | None], None]  # seconds of audio done and in all

_log = logging.getLogger(__name__)


@dataclass
class Packed:
    """What went into a split so far."""

    listed: list[Listed] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)


@dataclass
class Summary:
    """What a preparation made, or is making."""

    marker: Prepared
    packed: dict[str, Packed] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
    clipped: int = 0


def prepare(
    paths: Sequence[str | Path],
    output: str | Path,
    *,
    sample_rate_hz: int | None = None,
    layout: str = "folder",
    name: str | None = None,
    splits: str | Path | None = None,
    validation_share: float | None = None,
    microphone: str = "mic1",
    shards: int | None = None,
    segment_seconds: float = SEGMENT_SECONDS,
    strict: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Writes the prepared set `output`, a new folder, of the recordings of a corpus (see `layouts.find`).

    Every recording is cut into segments of `segment_seconds`, one a record, without overlap. The sample rate is by
    default that of all recordings, `splits` a folder of given lists, `shards` the number of files of the largest split
    (default: of about 128 MiB). Recordings that cannot be read are left out, or with `strict` an error. Nothing is at
    `output` until all is written and was opened again. Raises AdjaxError for unusable arguments and folders, recordings
    that are not those of the lists, and a disk that is full.
    """
    output = Path(output)
    if layout not in LAYOUTS:
        raise AdjaxError(f"layout '{layout}' is not known; use one of {', '.join(LAYOUTS)}")
    if microphone not in MICROPHONES:
        raise AdjaxError(f"microphone '{microphone}' is not known; use one of {', '.join(MICROPHONES)}")
    if validation_share is not None and (layout != "folder" or splits is not None):
        raise AdjaxError("a validation share is for the layout 'folder' without given splits; others have their own")
    if not 0 <= (validation_share or 0) < 1:
        raise AdjaxError(f"validation share {validation_share:g} must be from 0 to below 1")
    name = name or ("audio" if layout == "folder" else layout)
    if not re.fullmatch("[a-z][a-z0-9_]{0,63}", name):
        raise AdjaxError(f"name '{name}' must be of a to z, 0 to 9 and _, starting with a letter")
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise AdjaxError(f"{output}: is there already; name a folder that is new or empty")
    lists = None if splits is None else read_lists(Path(splits))
    recordings = find(layout, paths, validation_share or 0.0, microphone, lists)
    read = {r.name: read_header(r.path) for r in recordings}
    headers = {name: header for name, header in read.items() if header}
    rate = sample_rate_hz or _common_rate(headers.values(), paths)
    segment = round(segment_seconds * rate)
    if segment < 1:
        raise AdjaxError(f"segments of {segment_seconds:g} s hold no sample at {rate} Hz")
    summary = Summary(Prepared(name, rate, segment, layout, ()))
    for recording in recordings:
        decoded = None if recording.name in headers else decode(recording, rate)
        if isinstance(decoded, Refused):
            _refuse(decoded, summary, strict)
    plan = _plan([r for r in recordings if r.name in headers], headers, rate, shards)
    total_s = sum(h.frames / h.sample_rate_hz for h in headers.values())
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    building = output.absolute().with_name(f".{output.absolute().name}.{secrets.token_hex(6)}.incomplete")
    try:
        building.mkdir()
        _write(building, plan, summary, strict, workers or min(os.cpu_count() or 1, 8), progress, total_s)
        _verify(building, summary)
        os.replace(building, output)
    except OSError as error:
        raise AdjaxError(f"{output}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return summary


def _common_rate(headers: Iterable[Source], paths: Sequence[str | Path]) -> int:
    rates = sorted({h.sample_rate_hz for h in headers})
    if len(rates) == 1:
        return rates[0]
    looked = ", ".join(map(str, paths))
    if not rates:
        raise AdjaxError(f"no usable audio in {looked}")
    raise AdjaxError(f"the recordings in {looked} are at {', '.join(map(str, rates))} Hz; say with --rate which to use")


def _plan(
    recordings: Sequence[Recording], headers: Mapping[str, Source], rate: int, shards: int | None
) -> dict[str, list[list[Recording]]]:
    """The recordings of each shard of each split, in order; shards of a size differ by a recording or so."""

    def size(recording: Recording) -> int:
        header = headers[recording.name]
        return 2 * header.samples(rate) * header.channels

    by_split = {split: [r for r in recordings if r.split == split] for split in SPLITS}
    totals = {split: sum(map(size, members)) for split, members in by_split.items()}
    shard_bytes = max(1, -(-max(totals.values()) // shards)) if shards else SHARD_BYTES
    plan: dict[str, list[list[Recording]]] = {}
    for split, members in by_split.items():
        if not members:
            continue
        count, done = min(len(members), max(1, -(-totals[split] // shard_bytes))), 0
        plan[split] = [[] for _ in range(count)]
        for recording in members:
            plan[split][min(count - 1, done * count // max(1, totals[split]))].append(recording)
            done += size(recording)
    return plan


def _write(
    folder: Path,
    plan: dict[str, list[list[Recording]]],
    summary: Summary,
    strict: bool,
    workers: int,
    progress: Progress | None,
    total_s: float,
) -> None:
    """Writes records, split lists, indices and the marker, which comes last."""
    done_s = 0.0
    with ThreadPoolExecutor(workers) as pool:

        def examples(split: str, recordings: Sequence[Recording]) -> Iterator[tuple[str, dict[str, Any]]]:
            nonlocal done_s
            rate = summary.marker.sample_rate_hz
            futures = [pool.submit(decode, r, rate) for r in recordings]
            try:
                for future in futures:
                    decoded = future.result()
                    if isinstance(decoded, Refused):
                        _refuse(decoded, summary, strict)
                        continue
                    yield from _examples(decoded, summary, summary.packed.setdefault(split, Packed()))
                    done_s += len(decoded.pcm) / rate
                    if progress:
                        progress(done_s, total_s)
            finally:
                for future in futures:
                    future.cancel()

        builder = make_builder(folder, summary.marker, plan, examples)
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # remarks about downloads
                builder.download_and_prepare()
        except (AdjaxError, OSError):
            raise
        except (RuntimeError, ValueError) as error:  # the writer of ArrayRecord files
            raise AdjaxError(f"{folder.parent}: records cannot be written; is the disk full? {error}") from error
    _describe(folder, summary)


def _refuse(refused: Refused, summary: Summary, strict: bool) -> None:
    if strict or refused.recording.listed is not None:
        raise AdjaxError(f"{refused.recording.path}: cannot be prepared: {refused.reason}")
    summary.refused.append(refused)
    if len(summary.refused) <= LOGGED:
        _log.warning("%s is left out: %s", refused.recording.path, refused.reason)


def _examples(decoded: Decoded, summary: Summary, packed: Packed) -> Iterator[tuple[str, dict[str, Any]]]:
    recording, marker = decoded.recording, summary.marker
    for start in range(0, len(decoded.pcm), marker.segment_samples):
        yield (
            f"{recording.name}:{start}",
            {
                "audio": decoded.pcm[start : start + marker.segment_samples],
                "id": recording.name.rpartition(".")[0],
                "file": recording.name,
                "speaker": recording.speaker,
                "start": start,
                "sample_rate_hz": marker.sample_rate_hz,
            },
        )
    packed.listed.append(decoded.listed)
    packed.entries.append(Entry(recording.name, recording.speaker, *decoded.pcm.shape))
    summary.clipped += decoded.clipped


def _describe(folder: Path, summary: Summary) -> None:
    if not summary.packed:
        raise AdjaxError(f"no usable audio: all {len(summary.refused)} files were left out")
    for part in ("splits", "index"):
        (folder / part).mkdir()
    for split, packed in summary.packed.items():
        (folder / "splits" / f"{split}.txt").write_text(format_list(packed.listed), encoding="utf-8")
        (folder / "index" / f"{split}.tsv").write_text(format_index(packed.entries), encoding="utf-8")
    refused = "".join(f"{r.recording.path}\t{' '.join(r.reason.split())}\n" for r in summary.refused)
    if refused:
        (folder / "left_out.tsv").write_text(refused, encoding="utf-8", errors="backslashreplace")
    segment = summary.marker.segment_samples
    made = tuple(
        Split(
            split,
            len(packed.entries),
            sum(e.records(segment) for e in packed.entries),
            sum(e.samples for e in packed.entries),
        )
        for split, packed in summary.packed.items()
    )
    summary.marker = Prepared(summary.marker.name, summary.marker.sample_rate_hz, segment, summary.marker.layout, made)
    (folder / MARKER).write_text(to_json(summary.marker), encoding="utf-8")


def _verify(folder: Path, summary: Summary) -> None:
    """Reads the end of every recording again: what a full disk or a slip in the order cuts off or moves shows there."""
    for split in summary.packed:
        found = read_index(f"{folder}:{split}")
        assert found is not None
        marker, records, entries = found
        first = 0
        for entry in entries:
            count = entry.records(marker.segment_samples)
            start = (count - 1) * marker.segment_samples
            try:
                records.read(first, start, entry.samples - start)
            except Damaged as error:
                raise AdjaxError(f"{entry.path}: what was written cannot be read again: {error}") from error
            first += count
