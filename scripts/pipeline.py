"""A whole system from nothing: autoencoder, statistics of its latents, vocoder on it, and the quality of all three.

Usage: python scripts/pipeline.py RUN_DIR --train FOLDER [FOLDER ...] --test FOLDER

Stages that are done are skipped and one that was cut off goes on from its last checkpoint, so that the same command
resumes. RUN_DIR gets autoencoder/ and vocoder/ (runs of `adjax train`), metric/ (the autoencoder's model before its
adversarial stage), stats.npy, evaluation/ of the three models on --test, and report.html to listen to, with the curves.
The defaults train in about an hour on two CPU cores; `--autoencoder configs/symad48.py --vocoder configs/symad48_v1.py`
is AudioDec's AD v1.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from adjax import weights
from adjax.cli.training import read_config
from adjax.strict_json import override
from adjax.train.loop import export

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def adjax(*arguments: object) -> None:
    """Runs a command of adjax; SystemExit with its status if it fails."""
    command = [sys.executable, "-m", "adjax", *map(str, arguments)]
    print("+ adjax", *map(str, arguments), flush=True)
    status = subprocess.run(command).returncode
    if status:
        raise SystemExit(status)


def train(config: Path, run_dir: Path, settings: Sequence[str]) -> Path:
    """The model folder of a run, started or continued where it is not there yet."""
    model = run_dir / "model"
    if not (model / "config.json").exists():  # which is written last
        adjax("train", config, "--run-dir", run_dir, "--resume", *(x for s in settings for x in ("--set", s)))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--train", nargs="+", required=True, help="speech to train on: folders, files or lists")
    parser.add_argument("--validation", nargs="*", default=[], help="speech to validate on while training")
    parser.add_argument("--test", type=Path, required=True, help="folder of speech to evaluate on")
    parser.add_argument("--autoencoder", type=Path, default=CONFIGS / "symad48_small.py")
    parser.add_argument("--vocoder", type=Path, default=CONFIGS / "symad48_small_v2.py")
    parser.add_argument("--set", action="append", default=[], help="change one value of both configurations")
    parser.add_argument("--set-autoencoder", action="append", default=[], help="of the autoencoder's alone")
    parser.add_argument("--set-vocoder", action="append", default=[], help="of the vocoder's alone")
    options = parser.parse_args()
    run, shared = options.run_dir, list(options.set)
    shared += [f"data.train={json.dumps(options.train)}", f"data.validation={json.dumps(options.validation)}"]

    settings = [*shared, *options.set_autoencoder]
    adversarial = override(read_config(options.autoencoder), settings).adversarial
    start = adversarial.start_step if adversarial else 0
    if start:
        settings.append(f"keep_every={start}")  # so that the model before the adversarial stage is still there
    autoencoder = train(options.autoencoder, run / "autoencoder", settings)
    systems = [autoencoder]
    if start:
        metric = run / "metric"
        if not (metric / "config.json").exists():
            config, variables = weights.load_model(export(run / "autoencoder", run / "metric.unnamed", step=start))
            weights.save_model(metric, replace(config, name=f"{config.name}-metric"), variables)
            shutil.rmtree(run / "metric.unnamed")
        systems.insert(0, metric)

    statistics = run / "stats.npy"
    if not statistics.exists():
        adjax("statistics", autoencoder, *options.train, "--output", statistics)
    settings = [*shared, *options.set_vocoder, f"init_from={autoencoder}", f"statistics={statistics}"]
    systems.append(train(options.vocoder, run / "vocoder", settings))

    if not (run / "evaluation" / "results.json").exists():
        models = (x for folder in systems for x in ("--model", folder))
        adjax("evaluate", options.test, *models, "--output", run / "evaluation", "--save-audio")
    runs = (x for name in ("autoencoder", "vocoder") for x in ("--run", run / name))
    adjax("report", run / "evaluation", run / "report.html", *runs)


if __name__ == "__main__":
    main()
