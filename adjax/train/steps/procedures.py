"""Training steps as pure per-device functions (state, batch) -> (state, metrics).

A batch is audio [batch, context + crop, channels], or a pair of such: what the model hears, and the clean audio that it
is to give. The context is fed to the model, but left out of losses and statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax import Array

from adjax import dsp, losses
from adjax.config import Adversarial, Part, TrainConfig
from adjax.config import Discriminators as DiscriminatorsConfig
from adjax.models.codec import Codec
from adjax.models.discriminators import Discriminators, Outputs
from adjax.nn import quantize
from adjax.nn.normed import SPECTRAL
from adjax.nn.precision import in_precision
from adjax.nn.quantize import CODEBOOK, Quantized
from adjax.train.parallel import Step, device_key, value_and_grad
from adjax.train.state import Optimizers, TrainState, Tree
from adjax.train.steps.codebooks import (
    active_stages,
    after_context,
    codes_used,
    count_codes,
    joined,
    next_codebooks,
    perplexities,
)

Metrics = dict[str, Array]


class Phase(NamedTuple):
    """What a step does; the steps of a run go through few of these, and each is compiled once."""

    trained: tuple[Part, ...]  # parts of the generator that are updated; none: it is left as it is
    adversarial: bool = False
    quantized: bool = True  # False: latents are passed on as they are, before a k-means start
    magnitude: bool = True  # False: before the magnitude loss enters


def phase(config: TrainConfig, step: int) -> Phase:
    """The phase of step number `step`, counted from 0."""
    adversarial = config.adversarial is not None and step >= config.adversarial.start_step
    trained: tuple[Part, ...] = config.trained
    if adversarial and config.adversarial:
        trained = config.adversarial.trained
    if step < config.generator_start_step:
        trained = ()
    losses = config.losses
    magnitude = not losses.magnitude_weight or step >= losses.magnitude_start_step
    return Phase(trained, adversarial, step >= kmeans_step(config), magnitude)


def kmeans_step(config: TrainConfig) -> int:
    """The step before which codebooks start by k-means (0: never, as where they are frozen)."""
    return config.model.quantizer.kmeans_start_step if "quantizer" in config.trained else 0


def make_step(config: TrainConfig, optimizers: Optimizers, axis: str | None, phase: Phase) -> Step:
    """The step of a phase."""
    if not phase.magnitude:
        config = replace(config, losses=replace(config.losses, magnitude_weight=0.0))
    if phase.adversarial:
        return adversarial_step(config, optimizers, axis, phase.trained, phase.quantized)
    return metric_step(config, optimizers, axis, phase.trained, phase.quantized)


def metric_step(
    config: TrainConfig,
    optimizers: Optimizers,
    axis: str | None,
    trained: Sequence[Part] | None = None,
    quantized: bool = True,
) -> Step:
    """An update of the trained parts of the generator (None: `config.trained`) on metric losses."""
    parts = config.trained if trained is None else trained

    def step(state: TrainState, batch: Tree) -> tuple[TrainState, Metrics]:
        heard, target = batch if isinstance(batch, tuple) else (batch, batch)
        metrics: Metrics = {}
        if parts:
            state, metrics, _ = _update_generator(config, optimizers, axis, parts, quantized, state, heard, target)
        return state._replace(step=state.step + 1), metrics

    return step


def adversarial_step(
    config: TrainConfig,
    optimizers: Optimizers,
    axis: str | None,
    trained: Sequence[Part] | None = None,
    quantized: bool = True,
) -> Step:
    """An update of the trained parts of the generator (None: `config.adversarial.trained`), then of the discriminators.

    As published, the discriminators hear the generator after its update: with the updated codebooks where they are
    trained, and that second pass moves their averages once more. Without trained parts, the generator is left as it is.
    """
    adversarial = config.adversarial
    assert adversarial is not None
    parts = adversarial.trained if trained is None else trained

    def step(state: TrainState, batch: Tree) -> tuple[TrainState, Metrics]:
        heard, target = batch if isinstance(batch, tuple) else (batch, batch)
        metrics, latents = {}, None
        if parts:
            state, metrics, latents = _update_generator(
                config, optimizers, axis, parts, quantized, state, heard, target, adversarial
            )
        state, more = _update_discriminators(
            config, adversarial, optimizers, axis, parts, quantized, state, heard, target, latents
        )
        return state._replace(step=state.step + 1), metrics | more

    return step


def _update_generator(
    config: TrainConfig,
    optimizers: Optimizers,
    axis: str | None,
    trained: Sequence[Part],
    quantized: bool,
    state: TrainState,
    heard: Array,
    target: Array,
    adversarial: Adversarial | None = None,
) -> tuple[TrainState, Metrics, Array | None]:
    """State, metrics, and the latents that the decoder got, where they are still those of the updated generator."""
    key = device_key(_key(config, state, 0), axis)

    def loss(params: Tree, rows: Tree) -> tuple[Array, tuple[Metrics, Tree]]:
        heard, target, active = rows
        params = {**state.params, **params}
        latents, kept = _encode(config, params, state, heard, active, quantized)
        fake, real = _crops(config, _decode(config, params, state, latents), target)
        terms = losses.metric_losses(fake, real, config.losses, config.model.sample_rate_hz, axis)
        if kept is not None and config.losses.vq_weight:
            terms["vqloss"] = config.losses.vq_weight * jnp.sum(quantize.stage_losses(kept))
        total = sum(terms.values(), jnp.float32(0))
        if adversarial:
            of_fake, of_real = (_discriminate(config, state.discriminators, x)[0] for x in (fake, real))
            matching = losses.feature_matching(
                of_fake,
                of_real,
                adversarial.feature_average_by_layers,
                adversarial.feature_average_by_discriminators,
                adversarial.feature_final_outputs,
            )
            scores = losses.generator_adversarial(of_fake, adversarial.loss, adversarial.average_by_discriminators)
            terms["adversarial_loss"] = adversarial.weight * (scores + adversarial.feature_weight * matching)
            total += terms["adversarial_loss"]
            terms["feature_matching_loss"] = matching
        return total, (terms, (latents, kept))

    params = {part: state.params[part] for part in trained if part != "quantizer"}
    rows = heard, target, _active(config, key, heard, quantized)
    (value, (terms, own)), gradient = value_and_grad(loss, params, rows, axis, config.accumulate)
    latents, kept = own if config.accumulate == 1 else joined(*own)
    metrics = {**terms, "generator_loss": value, "gradient_norm": optax.tree.norm(gradient)}
    updates, moments = optimizers.generator.update(gradient, state.optimizer, params)
    state = state._replace(params={**state.params, **cast(dict, optax.apply_updates(params, updates))})
    state = state._replace(optimizer=moments)
    if kept is not None:
        count = count_codes(kept, config.model.quantizer, axis)
        metrics |= perplexities(count)
        if "quantizer" in trained:
            books = next_codebooks(state.codebooks, kept, count, config.model.quantizer, key, axis)
            metrics |= codes_used(books)
            state = state._replace(codebooks=books)
    moved = {"encoder", "projector", "quantizer"} & set(trained)
    return state, metrics, None if moved else latents


def _update_discriminators(
    config: TrainConfig,
    adversarial: Adversarial,
    optimizers: Optimizers,
    axis: str | None,
    trained: Sequence[Part],
    quantized: bool,
    state: TrainState,
    heard: Array,
    target: Array,
    latents: Array | None,
) -> tuple[TrainState, Metrics]:
    """The discriminators' update on what the generator makes of `latents`, or else of `heard`.

    In the latter case the codebooks' averages move once more, if they are trained.
    """
    fixed = {name: tree for name, tree in state.discriminators.items() if name != "params"}
    key = device_key(_key(config, state, 1), axis)
    assert optimizers.discriminators is not None

    def loss(params: Tree, rows: Tree) -> tuple[Array, tuple[Tree, Tree]]:
        latents, heard, target, active = rows
        kept = None
        if latents is None:
            latents, kept = _encode(config, state.params, state, heard, active, quantized)
        fake, real = _crops(config, _decode(config, state.params, state, latents), target)
        natural, generated = slice(len(real)), slice(len(real), None)
        both, spectral = _discriminate(config, {**fixed, "params": params}, jnp.concatenate([real, fake]), True)
        of_real, of_fake = ([[x[half] for x in layers] for layers in both] for half in (natural, generated))
        real_loss, fake_loss = losses.discriminator_adversarial(
            of_real, of_fake, adversarial.loss, adversarial.average_by_discriminators
        )
        return real_loss + fake_loss, (({"real_loss": real_loss, "fake_loss": fake_loss}, spectral), kept)

    params = state.discriminators["params"]
    rows = latents, None, target, None
    if latents is None:
        rows = None, heard, target, _active(config, key, heard, quantized)
    (value, ((terms, spectral), own)), gradient = value_and_grad(loss, params, rows, axis, config.accumulate)
    norm = optax.tree.norm(gradient)
    updates, moments = optimizers.discriminators.update(gradient, state.discriminators_optimizer, params)
    moved = {**fixed, **spectral, "params": optax.apply_updates(params, updates)}
    metrics = {**terms, "discriminator_loss": value, "discriminator_gradient_norm": norm}
    _, kept = (None, own) if config.accumulate == 1 else joined(None, own)
    if kept is not None and "quantizer" in trained:
        count = count_codes(kept, config.model.quantizer, axis)
        books = next_codebooks(state.codebooks, kept, count, config.model.quantizer, key, axis)
        state = state._replace(codebooks=books)
    return state._replace(discriminators=moved, discriminators_optimizer=moments), metrics


def _key(config: TrainConfig, state: TrainState, forward: int) -> Array:
    """The random key of a step's first or second forward pass."""
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    return jax.random.fold_in(key, 3) if forward else key


def _active(config: TrainConfig, key: Array, heard: Array, quantized: bool) -> Array | None:
    """Stages that quantizer dropout leaves each crop of this device's batch."""
    return active_stages(config.model.quantizer, key, heard.shape[0]) if quantized else None


def _encode(
    config: TrainConfig, params: Tree, state: TrainState, audio: Array, active: Array | None, quantized: bool
) -> tuple[Array, Quantized | None]:
    """What the decoder gets, [batch, frames, dim], and what the quantizer did after the context."""
    variables = _variables(config, params, state)
    codec = Codec(config.model, config.remat)
    if not quantized:
        return cast(Array, codec.apply(variables, audio, method="latents")), None
    out = cast(Quantized, codec.apply(variables, audio, active, method=_quantize))
    return out.zq, after_context(out, config.data.context_samples // config.model.hop_samples)


def _quantize(codec: Codec, audio: Array, active: Array | None) -> Quantized:
    return codec.quantizer(codec.latents(audio), active)


def _decode(config: TrainConfig, params: Tree, state: TrainState, latents: Array) -> Array:
    codec = Codec(config.model, config.remat)
    return cast(Array, codec.apply(_variables(config, params, state), latents, method="decode_latents"))


def _variables(config: TrainConfig, params: Tree, state: TrainState) -> Tree:
    params = in_precision(params, config.precision)
    return {"params": params, CODEBOOK: {"quantizer": {"embed": state.codebooks.embed}}, "stats": state.stats}


def _crops(config: TrainConfig, decoded: Array, target: Array) -> tuple[Array, Array]:
    """Decoded and natural crops [batch * channels, samples], the context left out, the decoder's delay made up for."""
    delay, start = config.model.delay_samples, config.data.context_samples
    return dsp.fold_channels(decoded[:, start + delay :]), dsp.fold_channels(target[:, start : target.shape[1] - delay])


def _discriminate(config: TrainConfig, variables: Tree, crops: Array, track: bool = False) -> tuple[Outputs, Tree]:
    """Outputs of the discriminators on crops [batch, samples], and their collection of spectral norm, if they have it.

    `track`: the latter after a step of its power method.
    """
    assert config.adversarial is not None
    variables = {**variables, "params": in_precision(variables["params"], config.precision)}
    return _apply_discriminators(config.adversarial.discriminators, config.remat, track, variables, crops)


@partial(jax.jit, static_argnums=(0, 1, 2))  # compiled on its own only to be traced once
def _apply_discriminators(
    wanted: DiscriminatorsConfig, remat: bool, track: bool, variables: Tree, crops: Array
) -> tuple[Outputs, Tree]:
    mutable = [SPECTRAL] if track and SPECTRAL in variables else []
    outputs, moved = Discriminators(wanted, remat).apply(variables, crops[..., None], mutable=mutable)
    return cast(Outputs, outputs), dict(moved)
