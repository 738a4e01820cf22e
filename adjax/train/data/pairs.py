"""Noisy versions of the files to train on, found by their paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from adjax.errors import AdjaxError
from adjax.train.data.prepared import place
from adjax.train.data.sources import Source, find_audio, read_header, read_prepared


def pair(sources: Sequence[Source], clean: Sequence[str | Path], noisy: Sequence[str | Path]) -> list[Source]:
    """Each source, found below `clean`, with its counterpart below `noisy`.

    `noisy` has a folder or prepared set for each entry of `clean` (or one for all), in which a file has the path that
    its counterpart has in the folder or prepared set of `clean`, beside the list, or as a single file its name. Raises
    AdjaxError for what is missing or is not equally long.
    """
    if len(noisy) not in (1, len(clean)):
        raise AdjaxError(f"data.noisy has {len(noisy)} folders, but must have 1, or {len(clean)} as data.train")
    prepared: dict[str, dict[Path, Source]] = {}
    for entry in map(str, noisy):
        found = read_prepared(entry)
        if found is not None:
            prepared[entry] = {source.path: source for source in found}
        elif not Path(entry).is_dir():
            raise AdjaxError(f"data.noisy: {entry}: no such folder; it must hold a file for each one in data.train")
    places: dict[Path, tuple[str, Path]] = {}
    for entry, folder in zip(clean, list(map(str, noisy)) * (len(clean) // len(noisy)), strict=True):
        for path, name in _names(entry):
            places.setdefault(path, (folder, Path(folder) / name))

    def noisy_version(source: Source) -> Source | None:
        folder, path = places[source.path]
        if folder in prepared:
            return prepared[folder].get(path)
        if not path.is_file():
            return None
        found = read_header(path)
        if found is None:
            raise AdjaxError(f"data.noisy: {path}: cannot be read as audio")
        return found

    return [_paired(source, noisy_version(source), places[source.path][1]) for source in sources]


def _names(entry: str | Path) -> list[tuple[Path, Path]]:
    """Each file of an entry with its path relative to what the entry stands for."""
    root = Path(entry)
    if place(entry) is not None:
        return [(source.path, source.path.relative_to(root)) for source in read_prepared(entry) or ()]
    root = root if root.is_dir() else root.parent
    return [(p, p.relative_to(root) if p.is_relative_to(root) else Path(p.name)) for p in find_audio([entry])]


def _paired(source: Source, noisy: Source | None, path: Path) -> Source:
    if noisy is None:
        raise AdjaxError(f"data.noisy: {path}: no such file, but {source.path} needs its noisy version there")
    for what, theirs, ours in (
        ("samples", noisy.frames, source.frames),
        ("Hz", noisy.sample_rate_hz, source.sample_rate_hz),
        ("channels", noisy.channels, source.channels),
    ):
        if theirs != ours:
            raise AdjaxError(
                f"data.noisy: {path} has {theirs} {what}, but {source.path} has {ours}; pairs must be equally long "
                "and of one format"
            )
    return replace(source, noisy=noisy)
