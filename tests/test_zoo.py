"""Every known model and training configuration, resolved, and its parameters: a change to one shows here.

`python -m tests.test_zoo` writes the file anew after a change that is meant.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import pytest

from adjax import zoo
from adjax.cli.training import read_config
from adjax.config import ModelConfig
from adjax.models import codec
from adjax.strict_json import from_dict, to_dict

ROOT = Path(__file__).parent.parent
PINNED = ROOT / "tests" / "golden" / "configurations.json"
CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("*.py"))

# Millions of parameters as published.
PUBLISHED = {
    "symad48": {"encoder": 3.81, "projector": 0.10, "codebook": 0.52, "decoder": 4.04},
    "symad48-v0": {"decoder": 12.9},
    "symad48-v1": {"decoder": 19.5},
    "symad48-v2": {"decoder": 6.9},
}
# Kilobits a second, hop in samples and sample rate of "The published models".
RATES = {
    "symad48": (12.8, 300, 48000),
    "symad24": (6.4, 300, 24000),
    "symaad48": (12.8, 300, 48000),
    "symad48-c16": (24.0, 320, 48000),
    "symad48-v3": (12.8, 300, 48000),
    "symad24-v1": (6.4, 300, 24000),
    "symad48-denoise": (12.8, 300, 48000),
}


def parameters(config: ModelConfig) -> dict[str, int]:
    """Weights by part, weight norm folded, and codebook values."""
    tree = jax.eval_shape(lambda: codec.init(codec.without_weight_norm(config), jax.random.key(0)))
    parts = {**tree["params"], "codebook": tree["codebook"]["quantizer"]["embed"]}
    return {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in sorted(parts.items())}


def current() -> dict[str, Any]:
    models = {n: {"config": to_dict(m), "parameters": parameters(m)} for n, m in sorted(zoo.MODELS.items())}
    return {"models": models, "training": {name: to_dict(read_config(ROOT / "configs" / name)) for name in CONFIGS}}


def pinned() -> dict[str, Any]:
    return json.loads(PINNED.read_text())


@pytest.mark.parametrize("name", sorted(zoo.MODELS))
def test_models_are_as_pinned(name: str) -> None:
    """A model folder is rebuilt from its configuration, so a default that changes would change released models."""
    config = zoo.MODELS[name]
    assert from_dict(ModelConfig, to_dict(config)) == config
    wanted = pinned()["models"][name]
    assert to_dict(config) == wanted["config"]
    assert parameters(config) == wanted["parameters"]


@pytest.mark.parametrize("name", CONFIGS)
def test_training_configurations_are_as_pinned(name: str) -> None:
    """A few lines over another configuration: what they resolve to shows only here."""
    assert to_dict(read_config(ROOT / "configs" / name)) == pinned()["training"][name]


def test_nothing_else_is_pinned() -> None:
    assert pinned()["models"].keys() == zoo.MODELS.keys()
    assert list(pinned()["training"]) == CONFIGS


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    """The published counts, to the digits they have."""
    counts = parameters(zoo.MODELS[name])
    for part, millions in PUBLISHED[name].items():
        digits = 2 if millions < 5 else 1
        assert round(counts[part] / 1e6, digits) == millions, part


@pytest.mark.parametrize("name", RATES)
def test_published_rates(name: str) -> None:
    model = zoo.MODELS[name]
    assert (model.bitrate_bps / 1000, model.hop_samples, model.sample_rate_hz) == RATES[name]


if __name__ == "__main__":
    PINNED.write_text(json.dumps(current(), indent=1) + "\n")
