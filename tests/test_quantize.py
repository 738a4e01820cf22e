"""The residual quantizer's options for own models: each test fails with its option taken away."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adjax.config import Quantizer
from adjax.nn import quantize
from adjax.nn.quantize import Codebooks, ResidualQuantizer

CONFIG = Quantizer(codebooks=2, codebook_size=8, dim=4, decay=0.9)


def run(config: Quantizer, embed: np.ndarray, z: np.ndarray, active: np.ndarray | None = None) -> quantize.Quantized:
    variables = {"codebook": {"embed": jnp.asarray(embed)}}
    return ResidualQuantizer(config).apply(variables, jnp.asarray(z), active)  # type: ignore[return-value]


@pytest.fixture
def embed() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 8, 4)).astype(np.float32)


@pytest.fixture
def z() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((3, 5, 4)).astype(np.float32)


def test_the_first_of_equal_distances_wins() -> None:
    """As published: with a codebook entry repeated, the lower index is sent."""
    entry = np.ones((4, 2), np.float32)
    assert int(quantize.nearest(jnp.ones((1, 2)), jnp.asarray(entry))[0]) == 0


def test_codes_and_latents_agree_between_training_and_inference(embed: np.ndarray, z: np.ndarray) -> None:
    """encode and decode are the training pass without its gradients."""
    out = run(CONFIG, embed, z)
    variables = {"codebook": {"embed": jnp.asarray(embed)}}
    layer = ResidualQuantizer(CONFIG)
    codes = layer.apply(variables, jnp.asarray(z), method="encode")
    np.testing.assert_array_equal(codes, np.moveaxis(np.asarray(out.codes), 0, -1))
    np.testing.assert_allclose(layer.apply(variables, codes, method="decode"), out.zq, rtol=0, atol=1e-6)


@pytest.mark.parametrize("everywhere", [False, True])
def test_gradients_of_the_stage_losses(everywhere: bool, embed: np.ndarray, z: np.ndarray) -> None:
    """Published: only the first stage's loss reaches the encoder. Own models: every stage's does.

    The output's gradient is passed straight through in both.
    """
    config = replace(CONFIG, commit_every_stage=everywhere)
    through = jax.grad(lambda z: jnp.sum(run(config, embed, z).zq * 3))(jnp.asarray(z))
    np.testing.assert_allclose(through, 3.0, rtol=1e-6)
    second = jax.grad(lambda z: quantize.stage_losses(run(config, embed, z))[1])(jnp.asarray(z))
    assert (np.abs(second).max() > 0) == everywhere


def test_dropout_keeps_leading_stages_only(embed: np.ndarray, z: np.ndarray) -> None:
    """A crop with one active stage comes out as its first code vector; codes and statistics see all stages."""
    for everywhere in (False, True):
        config = replace(CONFIG, commit_every_stage=everywhere)
        full, some = run(config, embed, z), run(config, embed, z, np.array([1, 2, 1]))
        np.testing.assert_allclose(some.zq[0], some.selected[0, 0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(some.zq[1], full.zq[1], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(some.codes, full.codes)
        assert np.abs(some.zq[0] - full.zq[0]).max() > 1e-3


def test_restart_replaces_embedding_average_and_count_together(embed: np.ndarray) -> None:
    """A code whose count alone were raised would be divided back to its dead average at the next update."""
    config = replace(CONFIG, restart_below=0.05)
    size = jnp.ones((2, 8)).at[0, 3].set(0.001)
    books = Codebooks(jnp.asarray(embed), jnp.asarray(embed) * size[..., None], size)
    candidates = jnp.full((2, 8, 4), 7.0)
    after = quantize.restart_dead(books, candidates, config)
    np.testing.assert_allclose(after.embed[0, 3], 7.0)
    np.testing.assert_allclose(after.embed_avg[0, 3] / after.cluster_size[0, 3], 7.0, rtol=1e-6)
    assert float(after.cluster_size[0, 3]) > 0.5
    np.testing.assert_array_equal(after.embed[1], embed[1])
    nothing = quantize.update(after, jnp.zeros((2, 8)), jnp.zeros((2, 8, 4)), config)
    np.testing.assert_allclose(nothing.embed[0, 3], 7.0, rtol=1e-3)


def test_without_restart_a_dead_code_stays_dead(embed: np.ndarray) -> None:
    """The published quantizer: what is never chosen never moves."""
    books = Codebooks.fresh(jnp.asarray(embed))._replace(cluster_size=jnp.ones((2, 8)))
    count, total = jnp.zeros((2, 8)).at[:, 0].set(8.0), jnp.zeros((2, 8, 4)).at[:, 0].set(8.0)
    after = books
    for _ in range(20):
        after = quantize.update(after, count, total, CONFIG)
    np.testing.assert_allclose(after.embed[:, 1:], embed[:, 1:], rtol=1e-3)
    np.testing.assert_allclose(after.embed[:, 0], 1.0, rtol=0.3)


def test_kmeans_start_covers_latents_that_a_normal_start_misses() -> None:
    """Latents far from N(0, 1): random codebooks use a code or two of them, k-means all, at a far smaller error."""
    rng = np.random.default_rng(2)
    latents = (rng.standard_normal((400, 4)) * 0.05 + 3).astype(np.float32)
    books = jax.jit(quantize.kmeans_start, static_argnums=2)(jnp.asarray(latents), jax.random.key(0), CONFIG)
    started, normal = (
        run(CONFIG, np.asarray(embed), latents[None]) for embed in (books.embed, rng.standard_normal((2, 8, 4)))
    )

    def error(out: quantize.Quantized) -> float:
        return float(np.mean((np.asarray(out.zq)[0] - latents) ** 2))

    assert error(started) < 0.3 * 0.05**2 < error(normal)
    assert len(np.unique(started.codes[0])) == 8
    np.testing.assert_allclose(books.embed_avg / books.cluster_size[..., None], books.embed, rtol=1e-5)


def test_perplexity_of_known_frequencies() -> None:
    """Uniform over n codes is n; a single code is 1."""
    count = jnp.array([[2.0, 2.0, 0.0, 0.0], [5.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(quantize.perplexity(count), [2.0, 1.0], rtol=1e-5)
