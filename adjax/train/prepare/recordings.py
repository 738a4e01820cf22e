"""Whole recordings as the int16 samples that a prepared set holds, and what is wrong with those that cannot be."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from adjax import audio
from adjax.errors import AdjaxError
from adjax.train.data import read_header
from adjax.train.prepare.layouts import Recording
from adjax.train.prepare.lists import Listed


class Tampered(AdjaxError):
    """A recording that is not the one its split list names."""


class Decoded(NamedTuple):
    """A recording at the set's sample rate: int16[samples, channels]; `clipped` values were outside 16 bits."""

    recording: Recording
    listed: Listed
    pcm: np.ndarray
    clipped: int


class Refused(NamedTuple):
    """A recording that cannot be used."""

    recording: Recording
    reason: str


def decode(recording: Recording, sample_rate_hz: int) -> Decoded | Refused:
    """A recording's samples, resampled where needed, as many as `adjax.train.data.Source.samples` counts.

    16-bit recordings at `sample_rate_hz` stay as they are; others are resampled by soxr (HQ) and rounded. Raises
    Tampered if a given list's checksum or length differs, and refuses what cannot be read to its end.
    """
    path = recording.path
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        header = read_header(path)
        if header is None:
            return Refused(recording, "cannot be read as audio, or does not say how long it is")
        _check(recording, Listed(recording.name, sha256, header.frames))
        audio.check_rates(path, header.sample_rate_hz, sample_rate_hz)
        with audio.open_audio(path) as reader:
            blocks = [to_int16(b) for b in audio.resample(reader.blocks(), reader.sample_rate_hz, sample_rate_hz)]
    except Tampered:
        raise
    except (AdjaxError, OSError) as error:
        return Refused(recording, str(error))
    pcm = np.concatenate([block for block, _ in blocks])[: header.samples(sample_rate_hz)]
    if not len(pcm):
        return Refused(recording, f"{path}: holds no whole sample at {sample_rate_hz} Hz")
    return Decoded(recording, Listed(recording.name, sha256, header.frames), pcm, sum(n for _, n in blocks))


def _check(recording: Recording, found: Listed) -> None:
    wanted = recording.listed
    if wanted is None or wanted == found:
        return
    if wanted.sha256 != found.sha256:
        what = f"its SHA-256 is {found.sha256}, but the list of '{recording.split}' says {wanted.sha256}"
    else:
        what = f"it has {found.samples} samples, but the list of '{recording.split}' says {wanted.samples}"
    raise Tampered(f"{recording.path}: is not the file that was listed: {what}")


def to_int16(block: np.ndarray) -> tuple[np.ndarray, int]:
    """Full scale at 32768, as 16-bit files are read, and how many values had to be clipped."""
    values = np.rint(block * np.float32(32768))
    return np.clip(values, -32768, 32767).astype(np.int16), int(np.count_nonzero((values < -32768) | (values > 32767)))
