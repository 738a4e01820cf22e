"""Codebooks between training steps: statistics over the global batch, dropout of stages, restart of dead codes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from adjax.config import Quantizer
from adjax.nn import quantize
from adjax.nn.quantize import Codebooks, Quantized
from adjax.train.parallel import total

USED_SHARE = 0.05  # a code counts as in use if it is chosen this often, as a share of the mean over codes


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


def joined(latents: Array | None, kept: Quantized | None) -> tuple[Array | None, Quantized | None]:
    """Latents and the quantizer's output for a batch, from those of its parts, stacked along a new first axis."""

    def join(x: Array) -> Array:  # [parts, stages, batch, ...]
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(x.shape[0], -1, *x.shape[3:])

    if latents is not None:
        latents = latents.reshape(-1, *latents.shape[2:])
    if kept is None:
        return latents, None
    return latents, Quantized(kept.zq.reshape(-1, *kept.zq.shape[2:]), *map(join, kept[1:]))


def count_codes(quantized: Quantized, config: Quantizer, axis: str | None) -> Array:
    """How often each code was chosen over all devices, [stages, size]."""
    return total(quantize.counts(quantized.codes, config.codebook_size), axis)


def perplexities(count: Array) -> dict[str, Array]:
    """Perplexity of each stage's codes, under the names that they are logged by."""
    return {f"ppl_{i}": value for i, value in enumerate(quantize.perplexity(count))}


def codes_used(books: Codebooks) -> dict[str, Array]:
    """Codes of each stage that its statistics call in use, under the names that they are logged by."""
    mean_size = jnp.mean(books.cluster_size, axis=-1, keepdims=True)
    used = jnp.sum(books.cluster_size > USED_SHARE * mean_size, axis=-1)
    return {f"codes_used_{i}": value for i, value in enumerate(used)}


def next_codebooks(
    books: Codebooks, quantized: Quantized, count: Array, config: Quantizer, key: Array, axis: str | None
) -> Codebooks:
    """Codebooks after a batch: `count` is over all devices already, sums and restarts are taken over them here."""
    books = quantize.update(books, count, total(quantize.sums(quantized, config.codebook_size), axis), config)
    if not config.restart_below:
        return books
    candidates = _restart_candidates(quantized, config, jax.random.fold_in(key, 2), axis)
    return quantize.restart_dead(books, candidates, config)


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
