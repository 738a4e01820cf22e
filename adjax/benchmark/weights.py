"""Weights by numpy for measurements: speed does not depend on what a model has learnt."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from adjax import weights
from adjax.config import ModelConfig
from adjax.models import codec


def random_weights(shapes: Any) -> dict[str, Any]:
    """Arrays of the shapes of a network's variables, uniform within 1/sqrt(fan_in)."""
    rng = np.random.default_rng(0)
    flat = {}
    for name, leaf in weights.flatten(shapes).items():
        if name.endswith(("/g", "scale", "sigma", "window")):
            flat[name] = np.ones(leaf.shape, np.float32)
        else:
            bound = 1.0 if "codebook" in name else float(np.prod(leaf.shape[:-1]) or 1) ** -0.5
            flat[name] = rng.uniform(-bound, bound, leaf.shape).astype(np.float32)
    return weights.unflatten(flat)


def random_variables(config: ModelConfig) -> dict[str, Any]:
    """Random variables of a model, without compiling its initialisers."""
    return random_weights(_shapes(config))


def empty_variables(config: ModelConfig) -> dict[str, Any]:
    """Variables of a model that take no memory, to trace it with."""
    return jax.tree.map(lambda leaf: np.broadcast_to(np.float32(1), leaf.shape), _shapes(config))


def _shapes(config: ModelConfig) -> Any:
    return jax.eval_shape(lambda: codec.init(config, jax.random.key(0)))
