"""What can be evaluated: a model with a number of codebooks, Opus at a bitrate, a folder of decoded files."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import soxr

from adjax import audio, files, weights
from adjax.bitstream import Reader
from adjax.errors import AdjaxError
from adjax.evaluate import opus
from adjax.streaming import Codec
from adjax.train.data import find_audio

FRAME_S = 0.02  # of Opus, and of codecs that are not known
LAG_FRAMES = 1.5  # a constant lag is searched within so many hops
LENGTH_TOLERANCE_S = 0.5  # by which decoded files may be shorter or longer, as codecs fill up frames


@dataclass(frozen=True)
class Item:
    """A natural file; `name` is its path in its folder without the extension."""

    name: str
    path: Path


@dataclass(frozen=True)
class Coded:
    """One file by one system: where the audio is, and what was spent; None where that is not known."""

    path: Path
    payload_bits: int | None = None
    file_bytes: int | None = None
    encode_s: float | None = None
    decode_s: float | None = None
    clipped: int = 0
    counts: np.ndarray | None = field(default=None, compare=False)  # int64[codebooks, codebook_size]


@dataclass(frozen=True)
class Made:
    """A file by a system: what it made and how far that lags, or why there is nothing."""

    coded: Coded | None = None
    lag_s: float | None = None
    error: str | None = None
    unavailable: bool = False  # the system cannot do this, which is no failure


@dataclass(frozen=True)
class CodedFile:
    """One natural file by all systems, in their order; `error` where it cannot be read itself."""

    duration_s: float = 0.0
    sample_rate_hz: int = 0
    channels: int = 0
    made: tuple[Made, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class ModelSystem:
    """A model, with its folder, and the first `codebooks` of its codebooks."""

    name: str
    model: str
    folder: str
    codebooks: int
    codebook_size: int
    frame_rate_hz: float
    lag_bound_s: float
    kind: str = "model"

    def code(self, item: Item, target: Path) -> Coded:
        """Through the file commands, to 16-bit audio of the natural file's rate, length and channels.

        The model's known constant delay is made up for, as these commands do.
        """
        codec = load_codec(self.folder)
        with tempfile.TemporaryDirectory() as folder:
            stream = Path(folder) / "coded.adjx"
            written = files.encode_file(codec, item.path, stream, self.codebooks)
            restored = files.decode_file(codec, stream, target)
            with stream.open("rb") as file:
                counts = code_counts(Reader(file), self.codebook_size)
        return Coded(
            target,
            written.payload_bits,
            written.file_bytes,
            written.times.compute_s,
            restored.times.compute_s,
            restored.clipped,
            counts,
        )


@dataclass(frozen=True)
class OpusSystem:
    """Opus through libsndfile, `kbps` in its packets for each channel."""

    name: str
    kbps: float
    lag_bound_s: float = LAG_FRAMES * FRAME_S
    kind: str = "opus"

    def code(self, item: Item, target: Path) -> Coded:
        """To 16-bit audio of the natural file's rate and length."""
        natural, rate = read_audio(item.path)
        with tempfile.TemporaryDirectory() as folder:
            stream = Path(folder) / "coded.opus"
            made = opus.encode(stream, natural, rate, self.kbps)
            decoded, decode_s = opus.decode(stream, rate, len(natural))
            size = stream.stat().st_size
        with audio.AudioWriter(target, rate, natural.shape[1]) as writer:
            writer.write(decoded)
        return Coded(target, made.payload_bits, size, made.encode_s, decode_s, writer.clipped)


@dataclass(frozen=True)
class DecodedSystem:
    """A folder of decoded files of any codec; `decoded` is the file for each natural file's name."""

    name: str
    folder: str
    decoded: dict[str, Path] = field(hash=False)
    lag_bound_s: float = LAG_FRAMES * FRAME_S
    kind: str = "decoded"

    def code(self, item: Item, target: Path) -> Coded:
        """The file as it is; `target` is not written."""
        return Coded(self.decoded[item.name])


System = ModelSystem | OpusSystem | DecodedSystem

# ------------------------------------------------------------------------------------------------------ what to run


def find_items(paths: Sequence[str | Path], limit: int | None = None) -> list[Item]:
    """The natural files of folders, audio files or lists of files, at most the first `limit`.

    Where several folders hold files of one name, all names start with their folder's. Raises AdjaxError where there is
    no file, or where names cannot be told apart.
    """
    found = [(root, path) for root in map(Path, paths) for path in find_audio([root])]
    if not found:
        raise AdjaxError(f"{', '.join(map(str, paths))}: no audio files found")
    for prefix in (False, True):
        items = [Item(_name(root, path, prefix), path) for root, path in found]
        if len({item.name for item in items}) == len(items):
            return items[:limit]
    seen: dict[str, Path] = {}
    for item in items:
        if item.name in seen:
            raise AdjaxError(f"{seen[item.name]} and {item.path}: both would be called '{item.name}'; rename one")
        seen[item.name] = item.path
    raise AssertionError("unreachable")


def _name(root: Path, path: Path, prefix: bool) -> str:
    inside = path.relative_to(root) if root.is_dir() else Path(path.name)
    return (root.resolve().name / inside if prefix and root.is_dir() else inside).with_suffix("").as_posix()


def model_systems(models: Sequence[str | None], codebooks: Sequence[int]) -> list[ModelSystem]:
    """A system for each model and number of codebooks; all codebooks where none are named."""
    made = []
    for model in models:
        folder = weights.find_model(model)
        config = weights.read_config(Path(folder) / weights.CONFIG_FILE)
        for count in codebooks or [config.quantizer.codebooks]:
            if not 1 <= count <= config.quantizer.codebooks:
                raise AdjaxError(
                    f"codebooks is {count}, but model '{config.name}' has 1 to {config.quantizer.codebooks}"
                )
            made.append(
                ModelSystem(
                    f"{config.name}-{count}",
                    config.name,
                    os.fspath(folder),
                    count,
                    config.quantizer.codebook_size,
                    config.frame_rate_hz,
                    LAG_FRAMES / config.frame_rate_hz,
                )
            )
    return made


def opus_systems(rates_kbps: Sequence[float]) -> list[OpusSystem]:
    return [OpusSystem(f"opus-{kbps:g}", kbps) for kbps in rates_kbps]


def decoded_system(name: str, folder: str, items: Sequence[Item]) -> DecodedSystem:
    """Finds a decoded file for every natural one: of the same name in its folder or, anywhere, of the same stem.

    Raises AdjaxError, which names the file, where there is none or where there are several.
    """
    if not Path(folder).is_dir():
        raise AdjaxError(f"{folder}: no such folder of decoded files for '{name}'")
    places: dict[str, list[Path]] = {}
    stems: dict[str, list[Path]] = {}
    for path in find_audio([folder]):
        places.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
        stems.setdefault(path.stem, []).append(path)
    decoded, used = {}, {}
    for item in items:
        found = places.get(item.name) or stems.get(Path(item.name).name, [])
        if not found:
            raise AdjaxError(f"{folder}: holds no decoded file of '{item.name}'; for it, call one so, in any format")
        if len(found) > 1 or found[0] in used:
            which = ", ".join(str(path) for path in found)
            other = f" and of '{used[found[0]]}'" if found[0] in used else ""
            raise AdjaxError(f"{folder}: cannot tell which file is decoded of '{item.name}'{other}: {which}")
        decoded[item.name] = found[0]
        used[found[0]] = item.name
    return DecodedSystem(name, folder, decoded)


def check_names(systems: Sequence[System]) -> None:
    """Raises AdjaxError for names that are used twice or cannot name a folder."""
    for i, system in enumerate(systems):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", system.name):
            raise AdjaxError(f"'{system.name}' cannot name a system: use letters, digits and . _ + -")
        if any(system.name.lower() == other.name.lower() for other in systems[:i]):
            raise AdjaxError(f"two systems are called '{system.name}'; leave one out or give it another name")


# ---------------------------------------------------------------------------------------------------------- audio


@lru_cache(maxsize=4)
def load_codec(folder: str) -> Codec:
    """The model in a folder, loaded once in a process."""
    from adjax.cache import enable_compilation_cache

    enable_compilation_cache()
    return Codec.load(folder)


def read_audio(path: Path) -> tuple[np.ndarray, int]:
    """A whole file as float32[samples, channels], and its sample rate."""
    with audio.open_audio(path) as reader:
        return np.concatenate(list(reader.blocks())), reader.sample_rate_hz


def read_decoded(path: Path, natural: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """A decoded file in the form of the natural one: resampled, cut or filled up with zeros at the end."""
    decoded, rate = read_audio(path)
    if decoded.shape[1] != natural.shape[1]:
        raise AdjaxError(f"{path}: has {decoded.shape[1]} channels, but the natural file has {natural.shape[1]}")
    audio.check_rates(path, rate, sample_rate_hz)
    if rate != sample_rate_hz:
        decoded = soxr.resample(decoded, rate, sample_rate_hz)
    off_s = (len(decoded) - len(natural)) / sample_rate_hz
    if abs(off_s) > LENGTH_TOLERANCE_S:
        raise AdjaxError(
            f"{path}: is {abs(off_s):.2f} s {'longer' if off_s > 0 else 'shorter'} than the natural file; at most "
            f"{LENGTH_TOLERANCE_S} s are taken for a codec's filling"
        )
    return np.pad(decoded[: len(natural)], ((0, max(0, len(natural) - len(decoded))), (0, 0)))


def code_counts(reader: Reader, size: int) -> np.ndarray:
    """How often each code occurs, int64[codebooks, size], all streams together."""
    counts = np.zeros((reader.header.codebooks, size), np.int64)
    for block in reader.blocks():
        if block.codes is None:
            raise block.error or AdjaxError(f"block {block.index}: damaged")
        for i, column in enumerate(np.moveaxis(block.codes, -1, 0)):
            counts[i] += np.bincount(column.ravel(), minlength=size)
    return counts


def natural_info(path: Path) -> float:
    """Seconds that a file's header states; 0 where it cannot be read or does not say."""
    try:
        info = soundfile.info(path)
    except (RuntimeError, TypeError, ValueError, OSError):
        return 0.0
    return info.frames / info.samplerate if 0 <= info.frames < 1 << 62 else 0.0
