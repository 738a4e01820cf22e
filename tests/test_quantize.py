"""The residual quantizer's options for own models: each test fails with its option taken away."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adjax import kernels
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


def test_codebooks_without_statistics_stay_where_they_are(embed: np.ndarray) -> None:
    """An update moves a settled code by its share of what chose it; a code of no history goes where nothing is."""
    count, total = jnp.ones((2, 8)), jnp.asarray(embed) + 0.5
    settled, fresh = (
        quantize.update(books, count, total, CONFIG)
        for books in (quantize.Codebooks.settled(jnp.asarray(embed), 1.0), quantize.Codebooks.fresh(jnp.asarray(embed)))
    )
    np.testing.assert_allclose(settled.embed, embed + (1 - CONFIG.decay) * 0.5, rtol=0, atol=1e-4)
    assert np.abs(fresh.embed).max() > 5 * np.abs(embed).max()


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


@pytest.mark.parametrize("beams", [1, 3, 64])
def test_beam_search(beams: int) -> None:
    """One beam is greedy search, more find nearer sums, all of them the nearest; the C++ kernel finds the same."""
    rng = np.random.default_rng(2)
    embed = rng.standard_normal((3, 6, 4)).astype(np.float32)
    z = rng.standard_normal((2, 25, 4)).astype(np.float32)
    variables = {"codebook": {"embed": jnp.asarray(embed)}}

    def search(beams: int) -> tuple[np.ndarray, np.ndarray]:
        config = Quantizer(codebooks=3, codebook_size=6, dim=4, beams=beams)
        codes = np.asarray(ResidualQuantizer(config).apply(variables, jnp.asarray(z), method="encode"))
        return codes, ((z - sum(embed[i][codes[..., i]] for i in range(3))) ** 2).sum(-1)

    codes, error = search(beams)
    greedy = search(1)[1]
    assert beams == 1 or error.mean() < 0.95 * greedy.mean()
    if beams == 64:  # more than the 36 pairs of the first two stages
        sums = (embed[0][:, None, None] + embed[1][:, None] + embed[2]).reshape(-1, 4)
        np.testing.assert_allclose(error, ((z[..., None, :] - sums) ** 2).sum(-1).min(-1), rtol=1e-5)
    if kernels.available():
        packed = {name: jnp.asarray(array) for name, array in kernels.pack_codebooks(embed).items()}
        np.testing.assert_array_equal(kernels.quantize(jnp.asarray(z), **packed, stages=3, beams=beams)[0], codes)
    kept = run(Quantizer(codebooks=3, codebook_size=6, dim=4, beams=beams), embed, z)
    np.testing.assert_array_equal(np.moveaxis(np.asarray(kept.codes), 0, -1), search(1)[0])  # training is greedy


@pytest.mark.parametrize(("predicted", "beams"), [(0, 3), (2, 1)])
def test_fewer_codebooks_are_coded_as_if_there_were_no_more(predicted: int, beams: int) -> None:
    """Differences are from what the fewer decode to, and the sum that beam search finds is theirs."""
    rng = np.random.default_rng(4)
    embed, z = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 6, 4), (2, 9, 4)))

    def codes(stages: int, **settings: int) -> np.ndarray:
        config = Quantizer(stages, 6, 4, commit_every_stage=True, predicted=predicted, beams=beams)
        variables = {"codebook": {"embed": jnp.asarray(embed[:stages])}}
        return np.asarray(ResidualQuantizer(config).apply(variables, jnp.asarray(z), **settings, method="encode"))

    fewer = codes(3, codebooks=2)
    np.testing.assert_array_equal(fewer, codes(2))
    if kernels.available():
        packed = {name: jnp.asarray(array) for name, array in kernels.pack_codebooks(embed).items()}
        recursion = {"earlier": jnp.zeros((2, 4)), "factors": jnp.array([0, 0, 0.75, 0.75])} if predicted else {}
        found = kernels.quantize(jnp.asarray(z), **packed, stages=2, beams=beams, **recursion)[0]
        np.testing.assert_array_equal(found, fewer)


PREDICTED = Quantizer(codebooks=2, codebook_size=8, dim=4, commit_every_stage=True, predicted=2)


def test_prediction_is_of_what_the_decoder_has(embed: np.ndarray, z: np.ndarray) -> None:
    """Each frame's codes are those of what is left after the share of the frame before as decoded; so says training."""
    variables, layer = {"codebook": {"embed": jnp.asarray(embed)}}, ResidualQuantizer(PREDICTED)
    codes = np.asarray(layer.apply(variables, jnp.asarray(z), method="encode"))
    decoded = np.asarray(layer.apply(variables, codes, method="decode"))
    factors = np.array([0, 0, 0.75, 0.75], np.float32)
    if kernels.available():
        packed = {name: jnp.asarray(array) for name, array in kernels.pack_codebooks(embed).items()}
        start = jnp.zeros_like(decoded[:, 0])
        found, last = kernels.quantize(jnp.asarray(z), **packed, stages=2, beams=1, earlier=start, factors=factors)
        np.testing.assert_array_equal(found, codes)
        np.testing.assert_allclose(last, decoded[:, -1], rtol=0, atol=1e-6)
    earlier = np.zeros_like(decoded[:, 0])
    for t in range(z.shape[1]):
        left = z[:, t] - factors * earlier
        plain = ResidualQuantizer(CONFIG).apply(variables, jnp.asarray(left[:, None]), method="encode")
        np.testing.assert_array_equal(codes[:, t], np.asarray(plain)[:, 0])
        earlier = factors * earlier + embed[0][codes[:, t, 0]] + embed[1][codes[:, t, 1]]
        np.testing.assert_allclose(decoded[:, t], earlier, rtol=0, atol=1e-6)
    out = run(PREDICTED, embed, z)
    np.testing.assert_array_equal(np.moveaxis(np.asarray(out.codes), 0, -1), codes)
    np.testing.assert_allclose(out.zq, decoded, rtol=0, atol=1e-6)
    few = run(PREDICTED, embed, z, np.array([1, 1, 2], np.int32)).zq
    alone = layer.apply(variables, jnp.asarray(z), 1, method="encode")
    one = layer.apply(variables, alone, method="decode")  # differences too are from what the active stages decode to
    assert not np.array_equal(alone, codes[..., :1])
    np.testing.assert_allclose(few, np.concatenate([one[:2], decoded[2:]]), rtol=0, atol=1e-6)
    gradient = jax.grad(lambda z: jnp.sum(run(PREDICTED, embed, z).zq * 3))(jnp.asarray(z))
    np.testing.assert_allclose(gradient, 3.0, rtol=1e-6)


def test_prediction_saves_bits_and_forgets(embed: np.ndarray) -> None:
    """Latents that move slowly are coded better with it, and a frame that was lost matters ever less."""
    steps = 0.1 * np.random.default_rng(3).standard_normal((1, 200, 4))
    z, variables = np.cumsum(steps, 1).astype(np.float32), {"codebook": {"embed": jnp.asarray(0.5 * embed)}}

    def coded(config: Quantizer) -> tuple[np.ndarray, np.ndarray]:
        layer = ResidualQuantizer(config)
        codes = layer.apply(variables, jnp.asarray(z), method="encode")
        return np.asarray(codes), np.asarray(layer.apply(variables, codes, method="decode"))

    codes, decoded = coded(replace(PREDICTED, predicted=4))
    assert np.mean((decoded - z) ** 2) < 0.5 * np.mean((coded(CONFIG)[1] - z) ** 2)
    layer = ResidualQuantizer(replace(PREDICTED, predicted=4))
    late = np.asarray(layer.apply(variables, jnp.asarray(codes[:, 100:]), method="decode"))
    missing = np.abs(late - decoded[:, 100:]).max(axis=(0, 2))
    np.testing.assert_allclose(missing[:20], missing[0] * 0.75 ** np.arange(20), rtol=1e-3, atol=1e-5)


def test_kmeans_points_are_what_is_coded_if_nothing_is_lost(z: np.ndarray) -> None:
    """Every frame gives one, the first of a stream too; without prediction they are the latents."""
    factors = np.array([0, 0, 0.75, 0.75], np.float32)
    points = quantize.differences(jnp.asarray(z), PREDICTED)
    np.testing.assert_array_equal(points[:, 0], z[:, 0])
    np.testing.assert_allclose(points[:, 1:], z[:, 1:] - factors * z[:, :-1], rtol=1e-6)
    np.testing.assert_array_equal(quantize.differences(jnp.asarray(z), CONFIG), z)
