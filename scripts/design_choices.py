"""What each design choice of an autoencoder brings: variants of one configuration, same data, same steps, one table.

Usage: python scripts/design_choices.py RUN_DIR --config CONFIG.py --train FOLDER [FOLDER ...] --test FOLDER

Without --config, AudioDec's symAD in small is the base and choices are added to the published recipe one by one, then
all together; where the encoder works at the frame rate (configs/spectral48.py), or symAD's layers start as a transform
coder (configs/symad48_transform.py, with --set init_from=START), they are taken out of it one by one. Training is by
metric losses only, the magnitude loss among them from the first step, since a short study would not come to its own.
Variants that are done are skipped, and one that was cut off goes on from its last checkpoint. RUN_DIR gets a run of
`adjax train` for each variant, and evaluation/ of all models on --test.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from adjax.cli.training import read_config
from adjax.config import PARTS, SpectralEncoder

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
FFT_SIZES, BANDS = (2048, 1024, 512, 256), (128, 96, 56, 28)
Changes = dict[str, object]  # key of a configuration to its value

ALIGNED: Changes = {"model.encoder.aligned": True}
CONTEXT: Changes = {"data.context_samples": 1800}
CODEBOOKS: Changes = {
    "model.quantizer.decay": 0.99,
    "model.quantizer.kmeans_start_step": 200,
    "model.quantizer.restart_below": 0.05,
}
MEL: Changes = {
    "losses.mel.fft_sizes": FFT_SIZES,
    "losses.mel.hop_samples": [n // 2 for n in FFT_SIZES],
    "losses.mel.win_lengths": FFT_SIZES,
    "losses.mel.bands": BANDS,
}
ONE_MEL: Changes = {key: value[:1] for key, value in MEL.items() if isinstance(value, (list, tuple))}
DROPOUT: Changes = {"model.quantizer.dropout": 0.3}
PUBLISHED: Changes = {
    "model.encoder.aligned": False,
    "model.quantizer.decay": 0.8,
    "model.quantizer.kmeans_start_step": 0,
    "model.quantizer.restart_below": 0.0,
}
CONVOLUTIONAL: dict[str, Changes] = {
    "published": PUBLISHED,
    "aligned": PUBLISHED | ALIGNED,
    "left-context": PUBLISHED | CONTEXT,
    "codebooks-kept-alive": PUBLISHED | CODEBOOKS,
    "multi-resolution-mel": PUBLISHED | MEL,
    "quantizer-dropout": PUBLISHED | DROPOUT,
    "all-but-dropout": PUBLISHED | ALIGNED | CONTEXT | CODEBOOKS | MEL,
    "all": PUBLISHED | ALIGNED | CONTEXT | CODEBOOKS | MEL | DROPOUT,
}
SPECTRAL: dict[str, Changes] = {
    "as-configured": {},
    "without-complex-loss": {"losses.complex_weight": 0.0},
    "complex-loss-at-all-frequencies": {"losses.complex_below_hz": None},
    "without-magnitude-loss": {"losses.magnitude_weight": 0.0},
    "without-waveform-error": {"losses.error_weight": 0.0},
    "without-random-signs": {"model.decoder.random_signs_above_hz": 1e9},
    "with-left-context": {"data.context_samples": 1800, "data.crop_samples": 22200},
    "without-noise-floors": {"model.encoder.noise_floor_db": None, "data.augmentation.noise_floor_db": None},
    "without-low-pass": {"data.augmentation.low_pass_hz": None},
    "one-resolution-mel": ONE_MEL,
    "published-start-of-codebooks": {"model.quantizer.kmeans_start_step": 0, "model.quantizer.restart_below": 0.0},
    "without-prediction": {"model.quantizer.predicted": 0},
    "without-quantizer-dropout": {"model.quantizer.dropout": 0.0},
    "without-speed-perturbation": {"data.augmentation.speeds": (1.0,)},
}
CODEBOOKS_TOO: Changes = {"trained": ("quantizer", "decoder")}
# Codebooks that predict otherwise than the start's begin afresh.
UNPREDICTED: Changes = CODEBOOKS_TOO | {"model.quantizer.predicted": 0}
# What trains symAD from its start as a transform coder.
TRANSFORM: dict[str, Changes] = {
    "as-configured": {},
    "one-resolution-mel-alone": ONE_MEL
    | {"losses.complex_weight": 0.0, "losses.magnitude_weight": 0.0, "losses.error_weight": 0.0},
    "one-resolution-mel": ONE_MEL,
    "without-complex-loss": {"losses.complex_weight": 0.0},
    "complex-loss-at-all-frequencies": {"losses.complex_below_hz": None},
    "without-magnitude-loss": {"losses.magnitude_weight": 0.0},
    "without-waveform-error": {"losses.error_weight": 0.0},
    "without-left-context": {"data.context_samples": 0},
    "without-damping": {"optimizer.damping": 0.0},
    "all-parts-trained": {"trained": PARTS},
    "codebooks-trained": CODEBOOKS_TOO,
    "published-codebooks": {**UNPREDICTED, "model.quantizer.decay": 0.8},
    "codebooks-kept-alive": {**UNPREDICTED, **CODEBOOKS, "model.quantizer.kmeans_start_step": 1},
    "quantizer-dropout": DROPOUT,
    "without-low-pass": {"data.augmentation.low_pass_hz": None},
    "speed-perturbation": {"data.augmentation.speeds": (0.9, 1.0, 1.1)},
}


def adjax(*arguments: object) -> None:
    """Runs a command of adjax; SystemExit with its status if it fails."""
    print("+ adjax", *map(str, arguments), flush=True)
    status = subprocess.run([sys.executable, "-m", "adjax", *map(str, arguments)]).returncode
    if status:
        raise SystemExit(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--config", type=Path, default=CONFIGS / "symad48_small.py")
    parser.add_argument("--train", nargs="+", required=True, help="speech to train on: folders, files or lists")
    parser.add_argument("--test", type=Path, required=True, help="folder of speech to evaluate on")
    parser.add_argument("--steps", type=int, default=1200, help="of each variant (default: %(default)s)")
    parser.add_argument("--only", nargs="+", help="these variants")
    parser.add_argument("--set", action="append", default=[], help="change one value of every variant")
    options = parser.parse_args()
    base = read_config(options.config).model
    if isinstance(base.encoder, SpectralEncoder):
        variants = SPECTRAL
    else:
        variants = TRANSFORM if base.delay_samples else CONVOLUTIONAL
    if unknown := set(options.only or ()) - set(variants):
        parser.error(f"no variant {', '.join(sorted(unknown))}; there are {', '.join(variants)}")

    shared: Changes = {
        "data.train": options.train,
        "steps": options.steps,
        "adversarial": None,
        "losses.magnitude_start_step": 0,
    }
    systems = []
    for name in options.only or variants:
        model = options.run_dir / name / "model"
        if not (model / "config.json").exists():  # which is written last
            changes = {**shared, **variants[name], "model.name": name}
            settings = [*(f"{key}={json.dumps(value)}" for key, value in changes.items()), *options.set]
            arguments = (x for setting in settings for x in ("--set", setting))
            adjax("train", options.config, "--run-dir", options.run_dir / name, "--resume", *arguments)
        systems += ["--model", model]
    adjax("evaluate", options.test, *systems, "--output", options.run_dir / "evaluation")


if __name__ == "__main__":
    main()
