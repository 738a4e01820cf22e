"""Configurations: strict, complete in their errors, and the same after a trip through JSON."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from adjax import zoo
from adjax.cli.training import read_config
from adjax.config import ConvEncoder, ModelConfig, SpectralEncoder, TrainConfig
from adjax.strict_json import ConfigError, from_dict, override, to_dict, to_json

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


@pytest.mark.parametrize("model", zoo.MODELS.values(), ids=lambda m: m.name)
def test_models_survive_json(model: ModelConfig) -> None:
    """A model folder is rebuilt from its JSON alone."""
    assert from_dict(ModelConfig, json.loads(to_json(model))) == model


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_shipped_configurations_load_and_survive_json(path: Path) -> None:
    """Each file of configs/ defines `config`, and says its command in its header."""
    config = read_config(path)
    assert from_dict(TrainConfig, json.loads(to_json(config))) == config
    assert f"adjax train configs/{path.name}" in str(ast.get_docstring(ast.parse(path.read_text())))


def test_every_error_is_reported_at_once() -> None:
    """A run that waits in a queue should not fail on one typing error after another."""
    data = to_dict(TrainConfig(zoo.symad48))
    data["stepz"] = 1
    data["data"]["batch_size"] = "many"
    data["model"]["quantizer"]["codebook"] = 3
    with pytest.raises(ConfigError) as caught:
        from_dict(TrainConfig, data)
    message = str(caught.value)
    assert "unknown key 'stepz'; did you mean 'steps'?" in message
    assert "data.batch_size is 'many', but must be of type int" in message
    assert "unknown key 'model.quantizer.codebook'; did you mean 'codebooks'?" in message


def test_override() -> None:
    """Values are JSON where they parse as such, else strings; unknown paths are errors."""
    config = TrainConfig(zoo.symad48)
    changed = override(config, ["steps=10", "optimizer.betas=[0.8,0.9]", 'data.train=["a","b"]', "init_from=folder"])
    assert (changed.steps, changed.optimizer.betas, changed.data.train) == (10, (0.8, 0.9), ("a", "b"))
    assert changed.init_from == "folder"
    assert config.steps != 10
    for assignment, message in (
        ("optimiser.learning_rate=1", "did you mean 'optimizer'"),
        ("steps", "key.path=value"),
        ("steps=1.5", "type int"),
        ("optimizer.schedule=linear", "must be one of"),
        ("data.crop_samples=1000", "whole number of hops"),
        ("losses.magnitude_above_hz=24000", "half the sample rate"),
        ("model.decoder.delay_samples=-1", "delay_samples must not be negative"),
        ("model.decoder.delay_samples=9600", "more than the decoder's delay"),
        ("losses.magnitude_start_step=-1", "must not be negative"),
        ("optimizer.learning_rate=NaN", "finite"),
        ("optimizer.damping=-1", "optimizer.damping must not be negative"),
    ):
        with pytest.raises(ConfigError, match=message):
            override(config, [assignment])


def test_parts_must_fit_each_other() -> None:
    """A pairing with two hops or two channel counts would fail deep inside a convolution."""
    with pytest.raises(ConfigError, match="one hop: 320 and 300"):
        ModelConfig("x", encoder=ConvEncoder(strides=(2, 4, 5, 8)))
    with pytest.raises(ConfigError, match="must agree"):
        ModelConfig("x", encoder=ConvEncoder(in_channels=2))
    with pytest.raises(ConfigError, match="noise_floor_db must be null or between -200 and 0"):
        SpectralEncoder(noise_floor_db=6.0)
    with pytest.raises(ConfigError, match="aligned"):
        ConvEncoder(aligned=True, causal=False)
