"""What a denoising encoder brings, as a Markdown table: noisy speech, as it is and through models, against the clean.

Usage: python scripts/denoising_table.py --speech FILE_OR_FOLDER [...] --noise FILE_OR_FOLDER [...] -- MODEL [...]
(PESQ-WB and STOI need the extra `evaluation`)

Each utterance gets a random stretch of a random noise, the same for all models; "clean" is the models' row for speech
without noise. Means over files; the models' delay is made up for.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soxr

import adjax
from adjax.evaluate.systems import read_audio
from adjax.metrics import quality
from adjax.streaming import Codec
from adjax.train.data import find_audio

COLUMNS = {"pesq_wb": 2, "stoi": 3, "log_spectral_distance": 2, "mel_distance": 2, "si_sdr_db": 1}


def read(path: Path, rate_hz: int) -> np.ndarray:
    """The first channel of a file, float32[samples], at the rate."""
    sound, rate = read_audio(path)
    return soxr.resample(sound[:, 0], rate, rate_hz)


def mixed(speech: np.ndarray, noise: np.ndarray, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """Speech with a random stretch of noise, repeated if it is too short, at a ratio of powers over the whole file."""
    noise = np.tile(noise, -(-len(speech) // len(noise)) + 1)
    first = rng.integers(len(noise) - len(speech) + 1)
    stretch = noise[first : first + len(speech)]
    power = np.mean(speech**2) / max(1e-12, float(np.mean(stretch**2)))
    return speech + stretch * np.float32((power * 10 ** (-snr_db / 10)) ** 0.5)


def through(codec: Codec, sound: np.ndarray) -> np.ndarray:
    """The sound decoded from its codes."""
    codes = codec.encode(np.pad(sound, (0, codec.delay))[None, :, None])
    return np.asarray(codec.decode(codes))[0, codec.delay :, 0][: len(sound)]


def cells(rows: list[dict[str, float]]) -> str:
    """Means over files of each metric, as cells of a table's row."""
    means = [np.mean([row[c] for row in rows if c in row]) for c in COLUMNS]
    return " | ".join(f"{mean:.{digits}f}" for mean, digits in zip(means, COLUMNS.values(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--speech", nargs="+", required=True)
    parser.add_argument("--noise", nargs="+", required=True)
    parser.add_argument("--snr-db", type=float, nargs="+", default=[0.0, 5.0, 10.0, 20.0])
    arguments = parser.parse_args()
    codecs = {name: adjax.load(name) for name in arguments.models}
    rate_hz = next(iter(codecs.values())).sample_rate
    if any(codec.sample_rate != rate_hz for codec in codecs.values()):
        parser.error("the models must have one sample rate")
    speech = [read(path, rate_hz) for path in find_audio(arguments.speech)]
    noises = [read(path, rate_hz) for path in find_audio(arguments.noise)]
    print(f"{len(speech)} utterances, {sum(map(len, speech)) / rate_hz:.0f} s; {len(noises)} noises\n")
    print("| SNR | system | " + " | ".join(COLUMNS) + " |")
    print("| --- | --- |" + " ---: |" * len(COLUMNS))
    for snr_db in [*arguments.snr_db, np.inf]:
        rng = np.random.default_rng(0)
        heard = [mixed(clean, noises[rng.integers(len(noises))], snr_db, rng) for clean in speech]
        made = {"as it is": heard} if np.isfinite(snr_db) else {}
        made |= {name: [through(codec, sound) for sound in heard] for name, codec in codecs.items()}
        for name, sounds in made.items():
            rows = [quality(clean, sound, rate_hz) for clean, sound in zip(speech, sounds, strict=True)]
            print(f"| {f'{snr_db:g} dB' if np.isfinite(snr_db) else 'clean'} | {name} | {cells(rows)} |", flush=True)


if __name__ == "__main__":
    main()
