"""The state of a training run, and the optimizer that moves it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from adjax.config import ModelConfig, Optimizer
from adjax.models import codec
from adjax.nn.quantize import CODEBOOK, Codebooks

Tree = Any


class TrainState(NamedTuple):
    """Everything a step reads and writes, one logical copy."""

    params: Tree
    codebooks: Codebooks
    stats: Tree  # constants of the model
    optimizer: Tree
    step: Array  # int32[], updates made so far


def fresh(model: ModelConfig, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """Random weights, codebooks that have seen nothing, no updates made."""
    return from_variables(codec.init(model, jax.random.key(seed)), optimizer)


def from_variables(variables: Tree, optimizer: optax.GradientTransformation) -> TrainState:
    """A state before its first update, from a model's variables; missing codebook statistics start afresh."""
    books = variables[CODEBOOK]["quantizer"]
    known = Codebooks(**books) if "embed_avg" in books else Codebooks.fresh(books["embed"])
    params = variables["params"]
    return TrainState(params, known, variables.get("stats", {}), optimizer.init(params), jnp.int32(0))


def variables(state: TrainState) -> dict[str, Tree]:
    """The generator as a model's variables, codebook statistics included."""
    tree = {"params": state.params, CODEBOOK: {"quantizer": state.codebooks._asdict()}}
    return {**tree, "stats": state.stats} if state.stats else tree


def learning_rate(config: Optimizer, steps: int) -> optax.Schedule:
    """The learning rate as a function of the number of updates made."""
    if config.schedule == "cosine":
        peak, warmup = config.learning_rate, config.warmup_steps
        return optax.warmup_cosine_decay_schedule(
            0.0 if warmup else peak, peak, warmup, steps, peak * config.final_share
        )
    if config.schedule == "steps":
        return optax.piecewise_constant_schedule(config.learning_rate, dict.fromkeys(config.milestones, config.gamma))
    return optax.constant_schedule(config.learning_rate)


def clip_by_norm(limit: float) -> optax.GradientTransformation:
    """Gradients times min(1, limit / (norm + 1e-6)), as PyTorch clips."""

    def clip(updates: Tree, state: Tree, params: Tree = None) -> tuple[Tree, Tree]:
        scale = jnp.minimum(1.0, limit / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda u: u * scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), clip)


def make_optimizer(config: Optimizer, steps: int) -> optax.GradientTransformation:
    """Adam with clipping and the schedule of a run of `steps` updates."""
    adam = optax.adam(learning_rate(config, steps), *config.betas, eps=config.epsilon)
    return optax.chain(clip_by_norm(config.clip_norm), adam) if config.clip_norm else adam
