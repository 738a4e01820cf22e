"""Released PyTorch model folders to a configuration and variables, and the other way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from adjax.config import ModelConfig
from adjax.errors import AdjaxError
from adjax.torch_port.config_yml import config_text, read_config
from adjax.torch_port.names import autoencoder_rows, from_torch, to_torch
from adjax.torch_port.reader import read_checkpoint
from adjax.torch_port.writer import write_checkpoint, write_in_place


def import_checkpoint(checkpoint: Path, name: str | None = None) -> tuple[ModelConfig, dict[str, Any], int]:
    """The configuration, the variables (nested dicts of float32 arrays) and the steps of a released autoencoder.

    Its `config.yml` lies beside the checkpoint. The model is called `name`, by default after its folder.
    Raises AdjaxError for a damaged or hostile file and for one that does not fit its configuration.
    """
    checkpoint = Path(checkpoint)
    config = read_config(checkpoint.parent / "config.yml", name or checkpoint.resolve().parent.name)
    tree = read_checkpoint(checkpoint, leave_out=("optimizer", "scheduler", "model.discriminator"))
    networks, steps = tree.get("model"), tree.get("steps", 0)
    generator = networks.get("generator") if isinstance(networks, dict) else None
    if not isinstance(generator, dict):
        raise AdjaxError(f"{checkpoint}: holds no model.generator; it must be a checkpoint of the published program")
    if not isinstance(steps, int) or not 0 <= steps < 1 << 63:
        raise AdjaxError(f"{checkpoint}: steps must be a whole number from 0")
    try:
        variables = from_torch(autoencoder_rows(config), generator)
    except AdjaxError as error:
        raise AdjaxError(f"{checkpoint}: {error}") from None
    return replace(config, source=f"PyTorch checkpoint of {steps} steps"), variables, steps


def export_checkpoint(config: ModelConfig, variables: Mapping[str, Any], out_dir: Path, steps: int = 0) -> Path:
    """Writes OUT_DIR/config.yml and OUT_DIR/checkpoint-<steps>steps.pkl for the published program; returns the latter.

    The checkpoint has every key that the program's strict loading asks for, its zero stream buffers included.
    Raises AdjaxError for a model that the published program cannot hold and where nothing can be written.
    """
    text = config_text(config)
    state = to_torch(autoencoder_rows(config), variables)
    out_dir = Path(out_dir)
    checkpoint = out_dir / f"checkpoint-{steps}steps.pkl"
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AdjaxError(f"{out_dir}: cannot be created: {error.strerror}") from None
    networks = {"generator": state, "discriminator": {}}
    tree = {"model": networks, "steps": steps, "epochs": 0, "optimizer": {}, "scheduler": {}}
    write_checkpoint(checkpoint, tree)
    write_in_place(out_dir / "config.yml", lambda file: file.write(text.encode()))
    return checkpoint
