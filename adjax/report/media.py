"""Audio and pictures as text that a page holds: data URIs and drawings of its own."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import soxr

from adjax import audio, picture
from adjax.errors import AdjaxError
from adjax.evaluate import opus

AudioFormat = Literal["opus", "flac", "wav"]
FORMATS: dict[AudioFormat, tuple[str, str, str]] = {  # container and subtype of libsndfile, media type
    "opus": ("OGG", "OPUS", "audio/ogg; codecs=opus"),
    "flac": ("FLAC", "PCM_16", "audio/flac"),
    "wav": ("WAV", "PCM_16", "audio/wav"),
}
PICTURE_SIZE = (480, 120)  # of a spectrogram, width and height
PICTURE_QUALITY = 70  # of WebP, of 100
WAVE_COLUMNS, WAVE_HEIGHT = 240, 48


@dataclass(frozen=True)
class Sound:
    """A file of float32[samples, channels]."""

    samples: np.ndarray
    sample_rate_hz: int

    @property
    def mono(self) -> np.ndarray:
        """The mean over channels."""
        return self.samples.mean(axis=1)

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate_hz


def read_sound(path: Path) -> Sound:
    """A whole file; raises AdjaxError where it cannot be read."""
    with audio.open_audio(path) as reader:
        return Sound(np.concatenate(list(reader.blocks())), reader.sample_rate_hz)


def data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def listening_copy(sound: Sound, audio_format: AudioFormat, kbps: float) -> bytes:
    """The file's bytes in a format that browsers play; Opus has about `kbps` for each channel, the others 16 bits."""
    container, subtype, _ = FORMATS[audio_format]
    samples, rate, options = sound.samples, sound.sample_rate_hz, {}
    if audio_format == "opus":
        if rate not in opus.RATES_HZ:
            samples, rate = soxr.resample(samples, rate, opus.RATES_HZ[-1]), opus.RATES_HZ[-1]
        share = (opus.HIGHEST_KBPS - kbps) / (opus.HIGHEST_KBPS - opus.LOWEST_KBPS)
        options["compression_level"] = float(np.clip(share, 0, 1))
    out = io.BytesIO()
    try:
        soundfile.write(out, np.clip(samples, -1, 1), rate, subtype, format=container, **options)
    except (RuntimeError, TypeError, ValueError) as error:
        raise AdjaxError(f"libsndfile cannot write {audio_format} for the page ({error}); try --format flac") from None
    return out.getvalue()


def spectrogram(sound: Sound, top_db: float) -> bytes:
    """WebP of PICTURE_SIZE of the mean over channels, `picture.RANGE_DB` down from `top_db`."""
    width, height = PICTURE_SIZE
    out = io.BytesIO()
    levels = picture.levels_db(sound.mono, sound.sample_rate_hz, width, height)
    picture.coloured(levels, top_db).save(out, format="WEBP", quality=PICTURE_QUALITY, method=6)
    return out.getvalue()


def loudest_db(sound: Sound) -> float:
    """The level of the loudest point of the spectrogram."""
    return picture.peak_db(picture.levels_db(sound.mono, sound.sample_rate_hz, *PICTURE_SIZE))


def waveform_path(sound: Sound, peak: float) -> str:
    """The SVG path of lowest and highest samples in WAVE_COLUMNS columns, WAVE_HEIGHT high; `peak` fills the height."""
    mono = sound.mono
    edges = np.linspace(0, len(mono), min(WAVE_COLUMNS, len(mono)) + 1).astype(int)[:-1]
    middle = WAVE_HEIGHT / 2
    xs = (np.arange(len(edges)) + 0.5) * WAVE_COLUMNS / len(edges)

    def points(values: np.ndarray, order: int) -> str:
        ys = middle - np.clip(values / max(peak, 1e-4), -1, 1) * (middle - 1)
        return "L".join(f"{x:g} {y:.1f}" for x, y in list(zip(xs, ys, strict=True))[::order])

    high, low = np.maximum.reduceat(mono, edges), np.minimum.reduceat(mono, edges)
    return f"M{points(high, 1)}L{points(low, -1)}Z"
