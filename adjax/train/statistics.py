"""Statistics of a training set that a model needs before or early in its training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from adjax import dsp
from adjax.config import TrainConfig
from adjax.models.codec import Codec
from adjax.nn import quantize
from adjax.nn.quantize import Codebooks
from adjax.train.data import Batch, heard
from adjax.train.state import TrainState, Tree

SIGMA_SECONDS = 600
SIGMA_SMOOTHING_BINS = 9
KMEANS_LATENTS = 20_000


def whitening(config: TrainConfig, batches: Iterator[Batch]) -> Array:
    """The constants of a model that works on whitened MDCT frames: RMS of each bin, smoothed over neighbours, [hop]."""
    hop = config.model.hop_samples
    previous, current = dsp.analysis_kernel(hop)[..., :hop]
    power, frames = np.zeros(hop), 0
    while frames * hop < SIGMA_SECONDS * config.model.sample_rate_hz:
        hops = heard(next(batches)).reshape(config.data.batch_size, -1, hop)
        bins = hops[:, :-1] @ previous + hops[:, 1:] @ current
        power += np.sum(np.square(bins, dtype=np.float64), axis=(0, 1))
        frames += bins.shape[0] * bins.shape[1]
    side = SIGMA_SMOOTHING_BINS // 2
    kernel = np.full(SIGMA_SMOOTHING_BINS, 1 / SIGMA_SMOOTHING_BINS)
    smooth = np.convolve(np.pad(power / frames, side, mode="edge"), kernel, "valid")
    return jnp.array(np.sqrt(smooth).astype(np.float32))


def kmeans_codebooks(config: TrainConfig, state: TrainState, batches: Iterator[Batch]) -> Codebooks:
    """Codebooks by k-means on latents of the current encoder over some training crops (contexts left out)."""
    model, quantizer = Codec(config.model), config.model.quantizer
    skip = config.data.context_samples // config.model.hop_samples
    variables = {"params": state.params, "stats": state.stats}

    @jax.jit
    def encode(variables: Tree, audio: Array) -> Array:
        return quantize.differences(cast(Array, model.apply(variables, audio, method="latents")), quantizer)[:, skip:]

    wanted = max(KMEANS_LATENTS, 2 * quantizer.codebook_size)
    latents: list[np.ndarray] = []
    while sum(map(len, latents)) < wanted:
        latents.append(np.asarray(encode(variables, heard(next(batches)))).reshape(-1, quantizer.dim))
    points = jnp.asarray(np.concatenate(latents)[:wanted])
    return jax.jit(quantize.kmeans_start, static_argnums=2)(points, jax.random.key(config.seed), quantizer)


@dataclass
class Moments:
    """Mean and population standard deviation of vectors that come in chunks, in float64 and without cancellation.

    Each chunk's moments are merged with those so far (Chan, Golub and LeVeque, 1979), so that neither the number of
    vectors nor a mean far from zero costs accuracy.
    """

    dim: int
    count: int = 0
    mean: np.ndarray = field(init=False)
    squares: np.ndarray = field(init=False)  # sum of squared deviations from the mean

    def __post_init__(self) -> None:
        self.mean, self.squares = np.zeros(self.dim), np.zeros(self.dim)

    def add(self, vectors: np.ndarray) -> None:
        """Take in vectors [..., dim]."""
        chunk = np.asarray(vectors, np.float64).reshape(-1, self.dim)
        if not len(chunk):
            return
        mean = chunk.mean(axis=0)
        total, difference = self.count + len(chunk), mean - self.mean
        self.squares += ((chunk - mean) ** 2).sum(axis=0) + difference**2 * (self.count * len(chunk) / total)
        self.mean += difference * (len(chunk) / total)
        self.count = total

    @property
    def deviation(self) -> np.ndarray:
        """Population standard deviation, [dim]."""
        return np.sqrt(self.squares / max(self.count, 1))
