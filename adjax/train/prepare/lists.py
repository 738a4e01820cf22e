"""Split lists: which files a split holds, each with its SHA-256 and length, so that others can use the very same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from adjax.errors import AdjaxError
from adjax.train.data.prepared import SPLITS

HEADER = "# adjax split list, format 1: path, SHA-256 of the file, samples a channel; separated by tabs"
_LINE_BREAKS = re.compile("[\t\n\r]")


class Listed(NamedTuple):
    """A file of a split; `samples` a channel as stored, at the file's own rate."""

    path: str  # in its corpus, with /
    sha256: str
    samples: int


def format_list(files: Sequence[Listed]) -> str:
    return "".join(f"{line}\n" for line in (HEADER, *("\t".join(map(str, f)) for f in files)))


def parse_list(text: str, where: str) -> list[Listed]:
    """The files that `format_list` wrote; empty lines and further lines with # do not count.

    Raises AdjaxError, which gives `where` and the line, for anything else: other separators, paths that lead out of
    the corpus or come twice, checksums of another length.
    """
    lines = text.split("\n")
    if lines[0].rstrip("\r") != HEADER:
        raise AdjaxError(f"{where}: not a split list: its first line must be '{HEADER}'")
    files: dict[str, Listed] = {}
    for number, line in enumerate(lines[1:], start=2):
        line = line.removesuffix("\r")
        if not line or line.startswith("#"):
            continue
        path, *rest = line.split("\t")
        if len(rest) != 2 or not re.fullmatch("[0-9a-f]{64}", rest[0]) or not re.fullmatch("[0-9]{1,18}", rest[1]):
            raise AdjaxError(f"{where}: line {number} must hold a path, 64 hexadecimal digits and a count of samples")
        check_name(path, f"{where}: line {number}")
        if path in files:
            raise AdjaxError(f"{where}: line {number}: {path} is listed twice")
        files[path] = Listed(path, rest[0], int(rest[1]))
    return list(files.values())


def check_name(path: str, where: str) -> None:
    """Raises AdjaxError unless `path` is a relative one that stays in its corpus and fits a line of a list."""
    parts = path.split("/")
    if not path or path.startswith("#") or _LINE_BREAKS.search(path) or not {"", ".", ".."}.isdisjoint(parts):
        raise AdjaxError(
            f"{where}: '{path}' must be a relative path with /, without '..', tabs and line breaks, not starting with #"
        )
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        raise AdjaxError(f"{where}: {path!r} is not a UTF-8 name; rename the file") from None


def read_lists(folder: Path) -> dict[str, list[Listed]]:
    """The lists `train.txt`, `validation.txt` and `test.txt` of a folder, those that are there.

    Raises AdjaxError if none is there, one is not a split list, or a file is in two of them.
    """
    lists: dict[str, list[Listed]] = {}
    for split in SPLITS:
        path = folder / f"{split}.txt"
        if path.exists():
            try:
                lists[split] = parse_list(path.read_text(encoding="utf-8"), str(path))
            except (OSError, UnicodeDecodeError) as error:
                raise AdjaxError(f"{path}: cannot be read: {error}") from error
    if not any(lists.values()):
        raise AdjaxError(f"{folder}: holds no split list that names a file: {', '.join(f'{s}.txt' for s in SPLITS)}")
    seen: dict[str, str] = {}
    for split, files in lists.items():
        for file in files:
            if file.path in seen:
                raise AdjaxError(f"{folder}: {file.path} is in {seen[file.path]}.txt and in {split}.txt")
            seen[file.path] = split
    return lists
