"""The state of a training run, and the optimizers that move it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from adjax.config import PARTS, Optimizer, TrainConfig
from adjax.models import codec
from adjax.models.discriminators import Discriminators
from adjax.nn.quantize import CODEBOOK, Codebooks

Tree = Any


class Optimizers(NamedTuple):
    """The optimizers of a run; both take gradients of any parts of their network's parameters."""

    generator: optax.GradientTransformation
    discriminators: optax.GradientTransformation | None = None  # None: the run has no discriminators


class TrainState(NamedTuple):
    """Everything a step reads and writes, one logical copy."""

    params: Tree
    codebooks: Codebooks
    stats: Tree  # constants of the model
    optimizer: Tree  # of the parts of the generator that the run ever trains
    step: Array  # int32[], steps made so far
    discriminators: Tree = None  # their variables; None: the run has none
    discriminators_optimizer: Tree = None


def parts_ever_trained(config: TrainConfig) -> tuple[str, ...]:
    """The parts of the generator whose parameters an optimizer moves at some step of the run."""
    later = config.adversarial.trained if config.adversarial else ()
    return tuple(p for p in PARTS if p != "quantizer" and p in (*config.trained, *later))


def fresh(config: TrainConfig, optimizers: Optimizers) -> TrainState:
    """Random weights, codebooks that have seen nothing, no updates made."""
    key = jax.random.key(config.seed)
    discriminators = None
    if config.adversarial:
        audio = jnp.zeros((1, config.data.crop_samples - config.model.delay_samples, 1))
        init = jax.jit(Discriminators(config.adversarial.discriminators).init)
        discriminators = dict(init(jax.random.fold_in(key, 1), audio))
    return from_variables(config, codec.init(config.model, key), discriminators, optimizers)


def from_variables(config: TrainConfig, generator: Tree, discriminators: Tree, optimizers: Optimizers) -> TrainState:
    """A state before its first update, from both networks' variables (the discriminators' None where there are none).

    Missing codebook statistics start afresh.
    """
    books = generator[CODEBOOK]["quantizer"]
    known = Codebooks(**books) if "embed_avg" in books else Codebooks.fresh(books["embed"])
    params = generator["params"]
    moments = None
    if optimizers.discriminators is not None:
        moments = optimizers.discriminators.init(discriminators["params"])
    return TrainState(
        params,
        known,
        generator.get("stats", {}),
        optimizers.generator.init({part: params[part] for part in parts_ever_trained(config)}),
        jnp.int32(0),
        discriminators,
        moments,
    )


def variables(state: TrainState) -> dict[str, Tree]:
    """The generator as a model's variables, codebook statistics included."""
    tree = {"params": state.params, CODEBOOK: {"quantizer": state.codebooks._asdict()}}
    return {**tree, "stats": state.stats} if state.stats else tree


def learning_rate(config: Optimizer, updates: int) -> optax.Schedule:
    """The learning rate as a function of the number of updates made, of `updates` in the whole run."""
    if config.schedule == "cosine":
        peak, warmup = config.learning_rate, config.warmup_steps
        return optax.warmup_cosine_decay_schedule(
            0.0 if warmup else peak, peak, warmup, max(updates, warmup + 1), peak * config.final_share
        )
    if config.schedule == "steps":
        falls = {m: config.gamma ** config.milestones.count(m) for m in config.milestones}
        return optax.piecewise_constant_schedule(config.learning_rate, falls)
    return optax.constant_schedule(config.learning_rate)


def learning_rates(config: TrainConfig) -> tuple[optax.Schedule, optax.Schedule | None]:
    """The learning rates of the generator and of the discriminators, each of the number of updates of its network."""
    generator = learning_rate(config.optimizer, config.steps - config.generator_start_step)
    if config.adversarial is None:
        return generator, None
    return generator, learning_rate(config.adversarial.optimizer, config.steps - config.adversarial.start_step)


def make_optimizers(config: TrainConfig) -> Optimizers:
    """Adam for each network of a run, with its clipping and schedule."""
    generator, discriminators = learning_rates(config)
    if config.adversarial is None or discriminators is None:
        return Optimizers(_adam(config.optimizer, generator))
    return Optimizers(_adam(config.optimizer, generator), _adam(config.adversarial.optimizer, discriminators))


def _adam(config: Optimizer, schedule: optax.Schedule) -> optax.GradientTransformation:
    adam = optax.scale_by_adam(*config.betas, eps=config.epsilon)
    if config.damping:
        adam = damped(adam, config.betas[1], config.damping)
    chain = [by_part(adam), optax.scale_by_learning_rate(schedule)]
    return optax.chain(clip_by_norm(config.clip_norm), *chain) if config.clip_norm else optax.chain(*chain)


def damped(adam: optax.GradientTransformation, decay: float, limit: float) -> optax.GradientTransformation:
    """`adam` with its update of each weight times min(1, limit / RMS of its gradient), by its own second moments.

    Adam moves all weights alike. Beyond the limit this takes steps of Newton's method instead, with squared gradients
    for a diagonal Hessian, as weights need that the loss is far more sensitive to than to others.
    """

    def update(updates: Tree, state: Tree, params: Tree = None) -> tuple[Tree, Tree]:
        updates, state = adam.update(updates, state, params)
        bias = 1 - decay ** state.count.astype(jnp.float32)

        def damp(update: Array, second_moment: Array) -> Array:
            return update * jnp.minimum(1.0, limit * jax.lax.rsqrt(second_moment / bias))

        return jax.tree.map(damp, updates, state.nu), state

    return optax.GradientTransformation(adam.init, update)


def by_part(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner` for each part (top-level key) on its own: a part without a gradient keeps its state and counts nothing.

    So do the moments and step counts of frozen parameters in PyTorch's Adam.
    """

    def update(updates: Tree, state: Tree, params: Tree = None) -> tuple[Tree, Tree]:
        moved = {
            part: inner.update(gradient, state[part], params and params[part]) for part, gradient in updates.items()
        }
        return {part: m[0] for part, m in moved.items()}, {**state, **{part: m[1] for part, m in moved.items()}}

    return optax.GradientTransformation(
        lambda params: {part: inner.init(tree) for part, tree in params.items()}, update
    )


def clip_by_norm(limit: float) -> optax.GradientTransformation:
    """Gradients times min(1, limit / (norm + 1e-6)), as PyTorch clips."""

    def clip(updates: Tree, state: Tree, params: Tree = None) -> tuple[Tree, Tree]:
        scale = jnp.minimum(1.0, limit / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda u: u * scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), clip)
