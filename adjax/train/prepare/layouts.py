"""Where known corpora keep their recordings, who speaks in each, and which split it belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from adjax.errors import AdjaxError
from adjax.train.data import find_audio
from adjax.train.prepare.lists import Listed, check_name

LAYOUTS = ("folder", "vctk", "libritts")
MICROPHONES = ("mic1", "mic2", "both")

# The published system is tested on 824 utterances of p232 and p257, the test speakers of the noisy VCTK set; p226 and
# p228, a man and a woman, are held out by choice.
VCTK_HELD_OUT = {"p232": "test", "p257": "test", "p226": "validation", "p228": "validation"}
LIBRITTS_SUBSETS = {
    "train-clean-100": "train",
    "train-clean-360": "train",
    "train-other-500": "train",
    "dev-clean": "validation",
    "dev-other": "validation",
    "test-clean": "test",
    "test-other": "test",
}
_VCTK_FOLDERS = ("wav48_silence_trimmed", "wav48")
_INSIDE = {"vctk": ("VCTK-Corpus-0.92", "VCTK-Corpus"), "libritts": ("LibriTTS", "LibriTTS_R")}


class Recording(NamedTuple):
    """A file to prepare; `listed` is what a given split list says about it."""

    name: str  # path in the corpus, with /
    path: Path
    speaker: str
    split: str
    listed: Listed | None = None


def find(
    layout: str,
    paths: Sequence[str | Path],
    validation_share: float = 0.0,
    microphone: str = "mic1",
    lists: Mapping[str, Sequence[Listed]] | None = None,
) -> list[Recording]:
    """The recordings of a corpus in the order of splits and names, the same on every machine.

    `folder` takes any folders: `validation_share` of the files, those whose names have the smallest SHA-256, are held
    out, and a file's speaker is its folder. `vctk` and `libritts` take the corpus's folder and know its splits; of
    VCTK 0.92 the recordings of one `microphone` or both. With `lists`, exactly the files that these name, which all
    must be there. Raises AdjaxError for folders that are not what they should be.
    """
    roots = _roots(layout, paths)
    if lists is not None:
        return [
            Recording(file.path, _located(file.path, roots, split), speaker(layout, file.path), split, file)
            for split, files in lists.items()
            for file in files
        ]
    named = {}
    for prefix, root in roots.items():
        for path in find_audio([root]):
            name = prefix + path.relative_to(root).as_posix()
            check_name(name, str(root))
            named[name] = path
    splits = _splits(layout, list(named), validation_share, microphone)
    if not splits:
        raise AdjaxError(f"no audio for the layout '{layout}' in {', '.join(map(str, paths))}")
    order = ("train", "validation", "test")
    chosen = sorted(splits, key=lambda name: (order.index(splits[name]), name.split("/")))
    return [Recording(name, named[name], speaker(layout, name), splits[name]) for name in chosen]


def speaker(layout: str, name: str) -> str:
    """Who speaks in a file, as its path says it: by layout the corpus's speaker, or the file's folder."""
    folders = name.split("/")[:-1]
    if layout == "vctk":
        return folders[-1] if folders else ""
    if layout == "libritts":
        return folders[-2] if len(folders) > 1 else ""
    return "/".join(folders)


def _roots(layout: str, paths: Sequence[str | Path]) -> dict[str, Path]:
    """The corpus's folders by what their files' names begin with: nothing, or of several folders each one's name."""
    for path in map(Path, paths):
        if not path.is_dir():
            raise AdjaxError(f"{path}: {'is not a folder' if path.exists() else 'no such folder'}; give folders")
    if layout == "folder":
        if len(paths) == 1:
            return {"": Path(paths[0])}
        roots = {f"{Path(path).resolve().name}/": Path(path) for path in paths}
        if len(roots) < len(paths):
            raise AdjaxError("several of the given folders have the same name, which tells their files apart")
        return roots
    if len(paths) != 1:
        raise AdjaxError(f"the layout '{layout}' takes one folder, the corpus's, but {len(paths)} are given")
    root, wanted = Path(paths[0]), _VCTK_FOLDERS if layout == "vctk" else tuple(LIBRITTS_SUBSETS)
    for place in (root, *(root / inner for inner in _INSIDE[layout])):
        if any((place / folder).is_dir() for folder in wanted):
            return {"": place}
    raise AdjaxError(f"{root}: is not laid out as '{layout}': it holds none of the folders {', '.join(wanted)}")


def _located(name: str, roots: Mapping[str, Path], split: str) -> Path:
    for prefix, root in roots.items():
        path = root / name.removeprefix(prefix)
        if name.startswith(prefix) and path.is_file():
            return path
    where = ", ".join(map(str, roots.values()))
    raise AdjaxError(f"{name}: the list of the split '{split}' names it, but it is not in {where}")


def _splits(layout: str, names: Sequence[str], validation_share: float, microphone: str) -> dict[str, str]:
    """The split of each file that belongs to the corpus."""
    if layout == "libritts":
        subsets = {name: LIBRITTS_SUBSETS.get(name.split("/")[0]) for name in names}
        return {name: split for name, split in subsets.items() if split}
    if layout == "vctk":
        folder = next((f for f in _VCTK_FOLDERS if any(name.startswith(f"{f}/") for name in names)), "")
        own = [name for name in names if name.startswith(f"{folder}/")]
        if folder == "wav48_silence_trimmed" and microphone != "both":
            own = [name for name in own if name.rpartition(".")[0].endswith(f"_{microphone}")]
        return {name: VCTK_HELD_OUT.get(speaker(layout, name), "train") for name in own}
    count = max(1, round(validation_share * len(names))) if validation_share else 0
    if names and count >= len(names):
        raise AdjaxError(f"a validation share of {validation_share:g} of {len(names)} files leaves none to train on")
    validation = set(sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[:count])
    return {name: "validation" if name in validation else "train" for name in names}
