"""Objective quality of models over a folder of speech, one line a model: mean over files, raw and delay-compensated.

Usage: python scripts/quality_table.py FOLDER MODEL [MODEL ...]      (needs the extra `evaluation`)

The model's constant delay is always made up for, as the file commands do. "compensated" also undoes the lag at which
the waveforms agree best, up to a hop and a half: AudioDec's published alignment lags by up to a hop, which distorts
metrics that compare samples or frames.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import soundfile
import soxr

import adjax
from adjax.metrics import quality
from adjax.streaming import Codec
from adjax.train.data import find_audio


def decode_aligned(codec: Codec, audio: np.ndarray) -> np.ndarray:
    """Decoded float32[samples] of float32[samples], the model's constant delay made up for."""
    codes = codec.encode(np.pad(audio, (0, codec.delay))[None, :, None])
    return np.asarray(codec.decode(codes))[0, codec.delay :, 0][: len(audio)]


def best_lag(natural: np.ndarray, decoded: np.ndarray, most: int) -> int:
    """Samples by which `decoded` lags at the largest cross-correlation, 0 to `most`."""
    size = 2 * len(natural)
    product = np.fft.rfft(decoded, size) * np.conj(np.fft.rfft(natural, size))
    return int(np.argmax(np.fft.irfft(product)[: most + 1]))


def main(folder: str, names: list[str]) -> None:
    for name in names:
        codec = adjax.load(name)
        raw, compensated, lags = [], [], []
        audio_s = compute_s = 0.0
        for path in find_audio([folder]):
            natural, rate = soundfile.read(path, dtype="float32", always_2d=True)
            natural = soxr.resample(natural[:, 0], rate, codec.sample_rate)
            decode_aligned(codec, natural)  # compiles for this length
            start = time.perf_counter()
            decoded = decode_aligned(codec, natural)
            compute_s += time.perf_counter() - start
            audio_s += len(natural) / codec.sample_rate
            lag = best_lag(natural, decoded, codec.hop_length * 3 // 2)
            raw.append(quality(natural, decoded, codec.sample_rate))
            compensated.append(quality(natural[: len(natural) - lag], decoded[lag:], codec.sample_rate))
            lags.append(lag)
        print(
            f"{codec.config.name}: {codec.num_parameters / 1e6:.2f} M values, {codec.bitrate / 1000:g} kbps, ", end=""
        )
        print(f"{compute_s / audio_s:.3f} s a second of audio, median lag {int(np.median(lags))} samples")
        for label, rows in (("raw", raw), ("compensated", compensated)):
            means = {key: np.mean([row[key] for row in rows if key in row]) for key in rows[0]}
            print(f"  {label:12}" + "  ".join(f"{key} {value:.3f}" for key, value in means.items()), flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
