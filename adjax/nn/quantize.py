"""Residual vector quantization with codebooks learnt as exponential moving averages.

The layer reads `embed` [stages, size, dim] of the collection `codebook` and writes nothing. The statistics behind it
are `Codebooks`; `update` computes the next ones from what a training forward pass returned, and a quantizer is frozen
by not calling it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from adjax import kernels
from adjax.config import Quantizer
from adjax.kernels import PACKED
from adjax.nn.conv import Memory

CODEBOOK = "codebook"


class Quantized(NamedTuple):
    """What a training forward pass of the quantizer gives."""

    zq: Array  # [batch, frames, dim], gradient passed straight through
    codes: Array  # int32[stages, batch, frames]
    residuals: Array  # [stages, batch, frames, dim], each stage's input
    selected: Array  # [stages, batch, frames, dim], each stage's code vectors, without gradient


class Codebooks(NamedTuple):
    """The codebooks of all stages and their statistics."""

    embed: Array  # [stages, size, dim]
    embed_avg: Array  # [stages, size, dim], moving average of the sum of the vectors that chose each code
    cluster_size: Array  # [stages, size], moving average of their number

    @classmethod
    def fresh(cls, embed: Array) -> Codebooks:
        """Statistics of codebooks that have seen nothing yet, as published."""
        return cls(embed, embed, jnp.zeros(embed.shape[:2]))

    @classmethod
    def settled(cls, embed: Array, share: float = 1.0) -> Codebooks:
        """Statistics for trained codebooks that were stored without: `share` vectors a step have chosen each code.

        With those of `fresh`, the first update would throw each code far away, as its count begins at nothing.
        """
        return cls(embed, embed * share, jnp.full(embed.shape[:2], share))


def nearest(x: Array, embed: Array) -> Array:
    """Indices int32[...] of the entries of embed[size, dim] nearest to x[..., dim]; the first of equals wins."""
    dots = jnp.einsum("...d,kd->...k", x, embed, precision=lax.Precision.HIGHEST)
    distance = jnp.sum(x * x, -1, keepdims=True) - 2 * dots + jnp.sum(embed * embed, -1)
    return jnp.argmin(distance, axis=-1).astype(jnp.int32)


def _greedy_search(z: Array, embed: Array) -> Array:
    """Codes int32[..., stages] of z[..., dim]: the nearest to what the stages before left over."""

    def stage(residual: Array, embed: Array) -> tuple[Array, Array]:
        codes = nearest(residual, embed)
        return residual - (residual + (embed[codes] - residual)), codes

    _, codes = lax.scan(stage, z, embed)
    return jnp.moveaxis(codes, 0, -1)


def _beam_search(z: Array, embed: Array, beams: int) -> Array:
    """Codes int32[..., stages] of z[..., dim] whose sum is near: after each stage the `beams` nearest sums are kept."""
    residuals = z[..., None, :]  # [..., hypotheses, dim]
    codes = jnp.zeros((*residuals.shape[:-1], 0), jnp.int32)
    for stage in embed:
        dots = jnp.einsum("...d,kd->...k", residuals, stage, precision=lax.Precision.HIGHEST)
        distance = jnp.sum(residuals * residuals, -1, keepdims=True) - 2 * dots + jnp.sum(stage * stage, -1)
        candidates = distance.reshape(*z.shape[:-1], -1)
        _, chosen = lax.top_k(-candidates, min(beams, candidates.shape[-1]))
        parent, code = chosen[..., None] // len(stage), chosen % len(stage)
        residuals = jnp.take_along_axis(residuals, parent, -2) - stage[code]
        codes = jnp.concatenate([jnp.take_along_axis(codes, parent, -2), code[..., None].astype(jnp.int32)], -1)
    return codes[..., 0, :]


class ResidualQuantizer(nn.Module):
    """Residual VQ: each stage quantizes what the stages before it left over (AudioDec; SoundStream, section III-C).

    With `predicted` latents it quantizes what they differ by from a share of the frame before as it was decoded:
    differential coding, as for a slowly moving level. Encoding is then a recursion over frames, and so is decoding;
    a lost frame is forgotten by that share a frame.
    """

    config: Quantizer

    def setup(self) -> None:
        c = self.config
        shape = (c.codebooks, c.codebook_size, c.dim)
        self.embed = self.variable(
            CODEBOOK, "embed", lambda: jax.random.normal(self.make_rng("params"), shape, jnp.float32)
        )
        self.memory = Memory()

    def encode(self, z: Array, codebooks: int | None = None) -> Array:
        """Codes int32[batch, frames, stages] of latents z[batch, frames, dim], by greedy or beam search.

        With `codebooks`, of so many leading stages: the nearest sum of those, and differences from what they decode to.
        """
        stages = self.config.codebooks if codebooks is None else codebooks
        if self.has_variable(PACKED, "embed"):
            return self._search_packed(z, stages)
        search = partial(self._search, self.embed.value[:stages])
        return self._by_frame(z, search)[1] if self.config.predicted else search(z)

    def decode(self, codes: Array) -> Array:
        """Latents [batch, frames, dim] of the leading codebooks' codes int32[batch, frames, stages]."""
        return self._integrated(self._sum(codes))

    def _search_packed(self, z: Array, stages: int) -> Array:
        embed, norms = (cast(Array, self.get_variable(PACKED, name)) for name in ("embed", "norms"))
        if not self.config.predicted:
            return kernels.quantize(z, embed, norms, stages, self.config.beams)[0]
        factors = prediction_factors(self.config)

        def run(earlier: Array) -> tuple[Array, Array]:
            codes, last = kernels.quantize(z, embed, norms, stages, self.config.beams, earlier, factors)
            return last, codes

        return self.memory(z[:, 0], run)

    def _search(self, embed: Array, z: Array) -> Array:
        return _beam_search(z, embed, self.config.beams) if self.config.beams > 1 else _greedy_search(z, embed)

    def _sum(self, codes: Array, active: Array | None = None) -> Array:
        """Sum of the code vectors of codes[..., stages]; with `active`, of codes[batch, stages], of so many stages."""
        embed = self.embed.value
        zq = embed[0][codes[..., 0]]
        for i in range(1, codes.shape[-1]):
            chosen = embed[i][codes[..., i]]
            zq += chosen if active is None else jnp.where((i < active)[:, None], chosen, 0)
        return zq

    def _by_frame(self, z: Array, search: Callable[[Array], Array], active: Array | None = None) -> tuple[Array, Array]:
        """What is expected of each frame after the one before it as decoded, and codes of the difference."""
        factors = prediction_factors(self.config)

        def frame(earlier: Array, latents: Array) -> tuple[Array, tuple[Array, Array]]:
            expected = factors * earlier
            codes = search(latents - expected)
            return expected + self._sum(codes, active), (expected, codes)

        return self._recursion(frame, z)

    def _integrated(self, differences: Array) -> Array:
        """Latents of what was coded: each frame on top of what is expected after the one before."""
        if not self.config.predicted:
            return differences
        factors = prediction_factors(self.config)

        def frame(earlier: Array, difference: Array) -> tuple[Array, Array]:
            latents = factors * earlier + difference
            return latents, latents

        return self._recursion(frame, differences)

    def _recursion(self, frame: Callable[[Array, Array], tuple[Array, Any]], x: Array) -> Any:
        """`frame` over the frames of x[batch, frames, dim], from the last one's latents on; results, frames second."""
        run = partial(lax.scan, frame, xs=jnp.moveaxis(x, 1, 0))
        return jax.tree.map(lambda y: jnp.moveaxis(y, 0, 1), self.memory(x[:, 0], run))

    def __call__(self, z: Array, active: Array | None = None) -> Quantized:
        """Training forward pass; `active` int32[batch] is how many leading stages enter each crop's output (all)."""
        stop = lax.stop_gradient
        everywhere = self.config.commit_every_stage
        residual, total = z, jnp.zeros_like(z)
        if self.config.predicted:
            residual -= stop(self._by_frame(z, partial(_greedy_search, embed=self.embed.value), active)[0])
        codes, residuals, selected = [], [], []
        for i in range(self.config.codebooks):
            embed = self.embed.value[i]
            index = nearest(stop(residual), embed)
            chosen = stop(embed[index])
            output = residual + stop(chosen - residual)
            codes.append(index)
            residuals.append(residual)
            selected.append(chosen)
            kept = output if active is None else jnp.where((i < active)[:, None, None], output, 0)
            total += stop(kept) if everywhere else kept
            residual = residual - (stop(output) if everywhere else output)
        zq = z + stop(self._integrated(total) - z) if everywhere else total
        return Quantized(zq, jnp.stack(codes), jnp.stack(residuals), jnp.stack(selected))


def prediction_factors(config: Quantizer) -> Array:
    """How much of each latent is expected again in the next frame, float32[dim]."""
    return jnp.where(jnp.arange(config.dim) >= config.dim - config.predicted, config.prediction, 0.0)


def differences(z: Array, config: Quantizer) -> Array:
    """Latents z[batch, frames, dim] less what is expected after the frame before as it is, not as decoded."""
    return z - prediction_factors(config) * jnp.pad(z, ((0, 0), (1, 0), (0, 0)))[:, :-1]


def stage_losses(quantized: Quantized) -> Array:
    """Commitment loss of each stage, [stages]: mean squared distance of its input to the code vector it chose."""
    return jnp.mean((lax.stop_gradient(quantized.selected) - quantized.residuals) ** 2, axis=(1, 2, 3))


def counts(codes: Array, size: int) -> Array:
    """How often each code occurs in each stage, float32[stages, size], of codes int32[stages, ...]."""

    def one(row: Array) -> Array:
        return jnp.zeros((size,), jnp.float32).at[row].add(1.0)

    return jax.vmap(one)(codes.reshape(codes.shape[0], -1))


def perplexity(count: Array) -> Array:
    """exp(entropy) of code frequencies, [stages], of counts [stages, size]."""
    p = count / jnp.sum(count, axis=-1, keepdims=True)
    return jnp.exp(-jnp.sum(p * jnp.log(p + 1e-10), axis=-1))


def sums(quantized: Quantized, size: int) -> Array:
    """Sum of the inputs that chose each code, [stages, size, dim]."""

    def one(codes: Array, inputs: Array) -> Array:
        return jnp.zeros((size, inputs.shape[-1]), jnp.float32).at[codes].add(inputs)

    stages = quantized.codes.shape[0]
    inputs = lax.stop_gradient(quantized.residuals)
    return jax.vmap(one)(quantized.codes.reshape(stages, -1), inputs.reshape(stages, -1, inputs.shape[-1]))


def update(books: Codebooks, count: Array, total: Array, config: Quantizer) -> Codebooks:
    """The next codebooks, from a batch's counts [stages, size] and sums [stages, size, dim], both over all devices."""
    size = config.decay * books.cluster_size + (1 - config.decay) * count
    average = config.decay * books.embed_avg + (1 - config.decay) * total
    n = jnp.sum(size, axis=-1, keepdims=True)
    smoothed = (size + config.epsilon) / (n + config.codebook_size * config.epsilon) * n
    return Codebooks(average / smoothed[..., None], average, size)


def restart_dead(books: Codebooks, candidates: Array, config: Quantizer) -> Codebooks:
    """Codes whose count fell under `restart_below` of the mean take a candidate [stages, size, dim] of the batch.

    Embedding, average and count change together: a new code has the mean count, so that it lives long enough to be
    used.
    """
    mean = jnp.mean(books.cluster_size, axis=-1, keepdims=True)
    dead = books.cluster_size < config.restart_below * mean
    size = jnp.where(dead, mean, books.cluster_size)
    embed = jnp.where(dead[..., None], candidates, books.embed)
    average = jnp.where(dead[..., None], candidates * mean[..., None], books.embed_avg)
    return Codebooks(embed, average, size)


def kmeans_start(latents: Array, key: Array, config: Quantizer, rounds: int = 8) -> Codebooks:
    """Codebooks by Lloyd's algorithm, stage after stage, on latents [count, dim] (count at least the codebook size)."""
    residual, stages = latents, []
    for i in range(config.codebooks):
        order = jax.random.permutation(jax.random.fold_in(key, i), residual.shape[0])
        embed = residual[order[: config.codebook_size]]

        def lloyd(_: int, state: tuple[Array, Array], residual: Array = residual) -> tuple[Array, Array]:
            embed = state[0]
            codes = nearest(residual, embed)
            count = jnp.zeros((config.codebook_size,)).at[codes].add(1.0)
            total = jnp.zeros_like(embed).at[codes].add(residual)
            return jnp.where(count[:, None] > 0, total / jnp.maximum(count, 1)[:, None], embed), count

        embed, count = lax.fori_loop(0, rounds, lloyd, (embed, jnp.zeros((config.codebook_size,))))
        stages.append((embed, jnp.maximum(count, 1e-3)))
        residual = residual - embed[nearest(residual, embed)]
    embed = jnp.stack([s[0] for s in stages])
    size = jnp.stack([s[1] for s in stages])
    return Codebooks(embed, embed * size[..., None], size)
