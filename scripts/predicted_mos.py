"""Mean opinion scores that networks predict, as a Markdown table: of what `adjax evaluate --save-audio` has written.

Usage: python scripts/predicted_mos.py RESULTS [RESULTS ...]
(pip install distillmos speechmos onnxruntime librosa; torch and torchaudio of one release. adjax itself is not needed.)

DistillMOS (Stahl and Gamper, 2025) and DNSMOS P.808 (Reddy et al., 2021) hear 16 kHz and no original. RESULTS are
folders that evaluations wrote; systems of one name are taken from the first. Means over files, 95 % bootstrap
intervals.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import distillmos
import numpy as np
import soundfile
import soxr
import torch
from speechmos import dnsmos

RATE_HZ = 16000
RESAMPLES = 10_000


def systems(results: list[Path]) -> dict[str, list[Path]]:
    """Audio files by system, the natural ones first."""
    found: dict[str, list[Path]] = {}
    for folder in results:
        for system in (folder / "natural", *sorted((folder / "decoded").iterdir())):
            found.setdefault(system.name, sorted(system.rglob("*.flac")))
    return found


def scores(path: Path, distilled: torch.nn.Module) -> tuple[float, float]:
    """DistillMOS and DNSMOS P.808 of a file."""
    sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    sound = np.clip(soxr.resample(sound[:, 0], rate, RATE_HZ), -1, 1)
    with torch.no_grad():
        distilled_mos = float(distilled(torch.from_numpy(sound)[None]).squeeze())
    return distilled_mos, float(dnsmos.run(sound, RATE_HZ)["p808_mos"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("results", nargs="+", type=Path)
    arguments = parser.parse_args()
    distilled = distillmos.ConvTransformerSQAModel().eval()
    print("| system | files | DistillMOS | DNSMOS P.808 |\n| --- | ---: | ---: | ---: |")
    for name, paths in systems(arguments.results).items():
        rows = np.array([scores(path, distilled) for path in paths])
        draws = np.random.default_rng(0).integers(len(rows), size=(RESAMPLES, len(rows)))
        low, high = np.percentile(rows[draws].mean(axis=1), [2.5, 97.5], axis=0)
        cells = (f"{m:.2f} ({a:.2f} to {b:.2f})" for m, a, b in zip(rows.mean(axis=0), low, high, strict=True))
        print(f"| {name} | {len(rows)} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
