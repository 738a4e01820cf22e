"""How models code speech of lower sample rates, as a Markdown table.

Usage: python scripts/bandwidth_table.py --speech FILE_OR_FOLDER [...] -- MODEL [...]
(PESQ-WB and STOI need the extra `evaluation`)

Each utterance goes through each rate and back to the model's, by resampling in 16 bit, and is then compared with what
comes of it. Means over files; the models' delay is made up for.
"""

from __future__ import annotations

import argparse

import numpy as np
import soxr
from denoising_table import COLUMNS, cells, read, through

import adjax
from adjax.metrics import quality
from adjax.train.data import find_audio


def limited(sound: np.ndarray, rate_hz: int, lower_hz: int) -> np.ndarray:
    """The sound as it would be had it been stored at the lower rate, as 16-bit audio, and resampled."""
    if lower_hz < rate_hz:
        lower = soxr.resample(sound, rate_hz, lower_hz, quality="VHQ")
        again = soxr.resample(lower, lower_hz, rate_hz, quality="VHQ")
        sound = np.pad(again, (0, max(0, len(sound) - len(again))))[: len(sound)]
    return (np.clip(np.round(sound * 32768), -32768, 32767) / 32768).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--speech", nargs="+", required=True)
    parser.add_argument("--rates-hz", type=int, nargs="+", default=[8000, 16000, 24000, 48000])
    arguments = parser.parse_args()
    files = find_audio(arguments.speech)
    print("| through | model | " + " | ".join(COLUMNS) + " |")
    print("| --- | --- |" + " ---: |" * len(COLUMNS))
    codecs = {name: adjax.load(name) for name in arguments.models}
    for lower_hz in arguments.rates_hz:
        for name, codec in codecs.items():
            rate_hz = codec.sample_rate
            sounds = [limited(read(path, rate_hz), rate_hz, lower_hz) for path in files]
            rows = [quality(sound, through(codec, sound), rate_hz) for sound in sounds]
            print(f"| {lower_hz / 1000:g} kHz | {name} | {cells(rows)} |", flush=True)


if __name__ == "__main__":
    main()
