"""Training steps as pure per-device functions (state, batch) -> (state, metrics)."""

from __future__ import annotations

from typing import cast

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from adjax import dsp, losses
from adjax.config import Quantizer, TrainConfig
from adjax.models.codec import Codec, Reconstruction
from adjax.nn import quantize
from adjax.nn.quantize import CODEBOOK, Codebooks, Quantized
from adjax.train.parallel import Step, device_key, mean, total, value_and_grad
from adjax.train.state import TrainState


def metric_step(
    config: TrainConfig, optimizer: optax.GradientTransformation, axis: str | None, quantized: bool = True
) -> Step:
    """The metric-only update of the autoencoder: encoder, quantizer and decoder together.

    Batches are [batch, context + crop, channels]; the context is fed to the model, but left out of losses and
    statistics.
    `quantized` False passes latents on as they are, for the steps before a k-means start.
    """
    model = Codec(config.model)

    def step(state: TrainState, audio: Array) -> tuple[TrainState, dict[str, Array]]:
        key = device_key(jax.random.fold_in(jax.random.key(config.seed), state.step), axis)

        def loss(params):
            variables = {
                "params": params,
                CODEBOOK: {"quantizer": {"embed": state.codebooks.embed}},
                "stats": state.stats,
            }
            if not quantized:
                latents = model.apply(variables, audio, method="latents")
                decoded = cast(Array, model.apply(variables, latents, method="decode_latents"))
                parts = _metric(config, decoded, audio, axis)
                return sum(parts.values(), jnp.float32(0)), (parts, None)
            active = active_stages(config.model.quantizer, key, audio.shape[0])
            out = cast(Reconstruction, model.apply(variables, audio, active))
            parts = _metric(config, out.audio, audio, axis)
            kept = after_context(out.quantized, config.data.context_samples // config.model.hop_samples)
            parts["vqloss"] = config.losses.vq_weight * jnp.sum(quantize.stage_losses(kept))
            return sum(parts.values(), jnp.float32(0)), (parts, kept)

        (value, (parts, kept)), gradient = value_and_grad(loss, state.params, axis)
        metrics = {**mean(parts, axis), "generator_loss": value, "gradient_norm": optax.tree.norm(gradient)}
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        books = state.codebooks
        if kept is not None:
            books, statistics = next_codebooks(books, kept, config.model.quantizer, key, axis)
            metrics |= statistics
        return TrainState(params, books, state.stats, optimizer_state, state.step + 1), metrics

    return step


def _metric(config: TrainConfig, decoded: Array, audio: Array, axis: str | None) -> dict[str, Array]:
    """Metric losses on the crop, the decoder's delay made up for."""
    delay, start = config.model.delay_samples, config.data.context_samples
    natural = dsp.fold_channels(audio[:, start : audio.shape[1] - delay])
    decoded = dsp.fold_channels(decoded[:, start + delay :])
    return losses.metric_losses(decoded, natural, config.losses, config.model.sample_rate_hz, axis)


def active_stages(config: Quantizer, key: Array, batch: int) -> Array | None:
    """Quantizer dropout: leading stages decoded for each crop, int32[batch]; None where all are for every crop."""
    if not config.dropout:
        return None
    chosen, number = jax.random.split(jax.random.fold_in(key, 1))
    few = jax.random.randint(number, (batch,), 1, config.codebooks + 1)
    return jnp.where(jax.random.bernoulli(chosen, config.dropout, (batch,)), few, config.codebooks)


def after_context(quantized: Quantized, frames: int) -> Quantized:
    """The quantizer's output without its first frames."""
    return Quantized(
        quantized.zq[:, frames:],
        quantized.codes[:, :, frames:],
        quantized.residuals[:, :, frames:],
        quantized.selected[:, :, frames:],
    )


def next_codebooks(
    books: Codebooks, quantized: Quantized, config: Quantizer, key: Array, axis: str | None
) -> tuple[Codebooks, dict[str, Array]]:
    """Codebooks after a batch, counts and sums taken over all devices, with perplexity and codes in use per stage."""
    count = total(quantize.counts(quantized.codes, config.codebook_size), axis)
    ppl = quantize.perplexity(count)
    books = quantize.update(books, count, total(quantize.sums(quantized, config.codebook_size), axis), config)
    if config.restart_below:
        candidates = _restart_candidates(quantized, config, jax.random.fold_in(key, 2), axis)
        books = quantize.restart_dead(books, candidates, config)
    mean_size = jnp.mean(books.cluster_size, axis=-1, keepdims=True)
    used = jnp.sum(books.cluster_size > 0.05 * mean_size, axis=-1)
    metrics = {f"ppl_{i}": ppl[i] for i in range(config.codebooks)}
    return books, metrics | {f"codes_used_{i}": used[i] for i in range(config.codebooks)}


def _restart_candidates(quantized: Quantized, config: Quantizer, key: Array, axis: str | None) -> Array:
    """Random residuals of the global batch, [stages, size, dim]: each code's candidate comes from one device."""
    stages, dim = config.codebooks, config.dim
    pool = lax.stop_gradient(quantized.residuals).reshape(stages, -1, dim)
    index = jax.random.randint(key, (stages, config.codebook_size), 0, pool.shape[1])
    picked = jnp.take_along_axis(pool, index[..., None], axis=1)
    if axis is None:
        return picked
    owner = jnp.arange(config.codebook_size) % lax.psum(1, axis) == lax.axis_index(axis)
    return lax.psum(jnp.where(owner[:, None], picked, 0.0), axis)
