"""Scripts that train whole systems and variants: every stage, and that the same command goes on where it stopped."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from adjax.cli.training import read_config
from adjax.strict_json import override, to_dict

ROOT = Path(__file__).parent.parent
AUTOENCODER = """
from dataclasses import replace
from adjax.config import Adversarial, Data, Discriminators, MultiPeriod, MultiScale, TrainConfig
from tests.conftest import TINY_CONV

discriminators = Discriminators(
    MultiScale(scales=1, channels=8, max_channels=16, max_groups=4),
    period=MultiPeriod(periods=(2,), channels=4, max_channels=8),
)
config = TrainConfig(
    replace(TINY_CONV, quantizer=replace(TINY_CONV.quantizer, kmeans_start_step=1)),
    Data(batch_size=2, crop_samples=1200),
    adversarial=Adversarial(2, discriminators, trained=("decoder",)),
    steps=4,
    parallel="jit",
    save_every=1,
    log_every=1,
)
"""
VOCODER = """
from dataclasses import replace
from adjax.config import Losses, Vocoder
from autoencoder import config as autoencoder

decoder = Vocoder(channels=8, strides=(5, 4), block_kernels=(3,), groups=3)
config = replace(
    autoencoder,
    model=replace(autoencoder.model, name="tiny-vocoder", decoder=decoder),
    losses=Losses(vq_weight=0.0),
    trained=("decoder",),
    generator_start_step=2,
    adversarial=replace(autoencoder.adversarial, start_step=1),
)
"""


@pytest.fixture
def speech(tmp_path: Path) -> tuple[str, str]:
    """Folders to train and to test on."""
    rng = np.random.default_rng(0)
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        for i in range(2):
            soundfile.write(tmp_path / name / f"{i}.wav", 0.1 * rng.standard_normal(8000), 8000)
    return str(tmp_path / "train"), str(tmp_path / "test")


@pytest.mark.slow
def test_every_stage_and_resuming(tmp_path: Path, speech: tuple[str, str]) -> None:
    """Cut off in the vocoder's training it goes on there: what was made before stays untouched, the rest is made."""
    (tmp_path / "autoencoder.py").write_text(AUTOENCODER)
    (tmp_path / "vocoder.py").write_text(VOCODER)
    run = tmp_path / "run"
    command = [sys.executable, str(ROOT / "scripts" / "pipeline.py"), str(run), "--train", speech[0]]
    command += ["--test", speech[1], "--autoencoder", str(tmp_path / "autoencoder.py")]
    command += ["--vocoder", str(tmp_path / "vocoder.py")]

    failed = subprocess.run([*command, "--set-vocoder", "steps=nonsense"], cwd=ROOT, capture_output=True, text=True)
    assert failed.returncode != 0
    assert "steps" in failed.stderr
    before = {p: p.stat().st_mtime_ns for p in [run / "stats.npy", *(run / "autoencoder" / "model").iterdir()]}
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    results = json.loads((run / "evaluation" / "results.json").read_text())
    assert [s["model"] for s in results["systems"]] == ["tiny-conv-metric", "tiny-conv", "tiny-vocoder"]
    weights = [(run / name / "model.safetensors").read_bytes() for name in ("metric", "autoencoder/model")]
    assert weights[0] != weights[1], "the adversarial stage moves the decoder"
    assert "tiny-vocoder" in (run / "report.html").read_text()
    again = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "adjax train" not in again.stdout


@pytest.mark.parametrize(
    ("base", "table"),
    [("symad48_small", "CONVOLUTIONAL"), ("spectral48", "SPECTRAL"), ("symad48_transform", "TRANSFORM")],
)
def test_design_choices_are_values_of_their_configuration(base: str, table: str) -> None:
    """Each variant is another configuration than any other: a choice that changes nothing would measure noise."""
    variants = runpy.run_path(str(ROOT / "scripts" / "design_choices.py"))[table]
    config = read_config(ROOT / "configs" / f"{base}.py")
    made = [
        json.dumps(to_dict(override(config, [f"{key}={json.dumps(value)}" for key, value in changes.items()])))
        for changes in variants.values()
    ]
    assert len(set(made)) == len(made) >= 8


@pytest.mark.slow
def test_design_choices_are_trained_once_and_evaluated(tmp_path: Path, speech: tuple[str, str]) -> None:
    (tmp_path / "autoencoder.py").write_text(AUTOENCODER)
    command = [sys.executable, str(ROOT / "scripts" / "design_choices.py"), str(tmp_path / "run"), "--train", speech[0]]
    command += ["--test", speech[1], "--config", str(tmp_path / "autoencoder.py"), "--steps", "2"]
    command += ["--only", "published", "aligned"]
    first = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert first.stdout.count("adjax train") == 2
    results = json.loads((tmp_path / "run" / "evaluation" / "results.json").read_text())
    assert [s["model"] for s in results["systems"]] == ["published", "aligned"]
    assert read_config(tmp_path / "run" / "aligned" / "config.json").model.encoder.aligned  # type: ignore[union-attr]
    again = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "adjax train" not in again.stdout
