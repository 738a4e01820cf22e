"""Discriminators and adversarial losses: the published numbers, and laws that any discriminator must keep."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from adjax import dsp, losses, weights
from adjax.config import ComplexStft, Discriminators, Losses, MultiPeriod, MultiResolution, MultiScale, Spectral
from adjax.models import discriminators as models
from adjax.nn import normed
from adjax.torch_port import read_checkpoint

GOLDEN = Path(__file__).parent / "golden"
PERIOD = MultiPeriod(channels=4, max_channels=32)
PUBLISHED = {
    "hifigan": Discriminators(MultiScale(channels=16, max_channels=64), None, None, PERIOD),
    "univnet": Discriminators(None, MultiResolution(channels=4), None, PERIOD),
}
# A small discriminator of every kind, with each kind of norm.
TINY = Discriminators(
    MultiScale(2, 8, 16, kernel_sizes=(5, 9, 3, 3), strides=(4,), norm="spectral"),
    MultiResolution((64,), (10,), (40,), 3, ((3, 5), (3, 3)), ((1, 2), (1, 1)), norm="spectral", exponent=0.3),
    ComplexStft(64, 16, 2, (1, 2), ((1, 2), (2, 2))),
    MultiPeriod((2, 3), 4, 8, strides=(3, 1), norm="none"),
)


class Golden(NamedTuple):
    expected: dict[str, np.ndarray]
    real: models.Outputs
    fake: models.Outputs
    gradient: np.ndarray  # of gen_adv + 2 feat_match with respect to y_hat
    kinds: tuple[str, ...]  # of the sub-discriminators


def from_torch(name: str, x: np.ndarray) -> tuple[str, np.ndarray]:
    """Name and array here of a published discriminator's tensor."""
    folders = {"msd": "params/scale", "mrsd": "params/resolution", "mpd": "params/period"}
    leaves = {"weight": "kernel", "weight_v": "v", "weight_g": "g", "bias": "bias"}
    folder, _, number, *middle, leaf = name.split(".")
    if leaf == "window":
        return f"stats/resolution/discriminators_{number}/window", x
    if folder == "mpd" and x.ndim == 4:
        x = x[..., 0]
    layer = "_".join(middle[:2]) if middle[1].isdigit() else middle[0]
    return f"{folders[folder]}/discriminators_{number}/{layer}/{leaves[leaf]}", np.moveaxis(x, (0, 1), (-1, -2)) if (
        x.ndim > 1
    ) else x


def audio(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, 2)


@pytest.fixture(scope="module", params=PUBLISHED)
def golden(request: pytest.FixtureRequest) -> Golden:
    """A published model's outputs on natural and generated signals, from one compilation."""
    config, folder = PUBLISHED[request.param], GOLDEN / f"{request.param}_discriminator"
    with np.load(folder / "expected.npz") as file:
        expected = dict(file)
    tensors = read_checkpoint(folder / "checkpoint-10steps.pkl")["model"]["discriminator"]
    variables = weights.unflatten(dict(from_torch(name, x) for name, x in tensors.items()))
    model = models.Discriminators(config)
    names = set(weights.flatten(variables))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 9600, 1))))
    assert names == set(weights.flatten(shapes)), "every tensor of the checkpoint has its place, and no other has one"

    def loss(y_hat: jax.Array, x: jax.Array) -> tuple[jax.Array, tuple[models.Outputs, models.Outputs]]:
        both = model.apply(variables, jnp.concatenate([x, y_hat]))  # half the graph to compile
        real, fake = ([[layer[half] for layer in layers] for layers in both] for half in np.s_[:2, 2:])
        adversarial = losses.generator_adversarial(fake, "mse", False)
        return adversarial + 2 * losses.feature_matching(fake, real, False, False, False), (real, fake)

    run = jax.jit(jax.grad(loss, has_aux=True))
    gradient, (real, fake) = run(audio(expected["y_hat"]), audio(expected["x"]))
    kinds = ("scale" if config.scale else "resolution",) * 3 + ("period",) * 5
    return Golden(expected, real, fake, np.asarray(gradient), kinds)


def published_layout(kind: str, x: jax.Array, last: bool) -> np.ndarray:
    """A layer's output as PyTorch has it: channels first, the period last and, in the score, flattened with time."""
    y = np.moveaxis(np.asarray(x), -1, 1)
    if kind == "period":
        y = y.swapaxes(2, 3)
        return y.reshape(len(y), -1) if last else y
    return y


def test_published_outputs(golden: Golden) -> None:
    """Sums over each layer and every score: an error in one layer is seen in that layer and in all after it.

    A sum is measured against the sum of magnitudes: rounding errors are, however much the sum itself cancels out.
    """
    assert len(golden.real) == len(golden.kinds)
    for i, (kind, layers) in enumerate(zip(golden.kinds, golden.real, strict=True)):
        assert len(layers) == golden.expected[f"n_layers_{i}"]
        for j, layer in enumerate(layers):
            y = published_layout(kind, layer, last=j == len(layers) - 1).astype(np.float64)
            assert y.shape == tuple(golden.expected[f"out/{i}/{j}_shape"]), (i, j)
            total, magnitude = golden.expected[f"out/{i}/{j}_sum"]
            np.testing.assert_allclose([y.sum(), np.abs(y).sum()], [total, magnitude], rtol=0, atol=1e-6 * magnitude)
        scores = published_layout(kind, layers[-1], last=True)
        np.testing.assert_allclose(scores, golden.expected[f"out/{i}/last"], rtol=0, atol=2e-5)


def all_losses(real: models.Outputs, fake: models.Outputs) -> dict[str, jax.Array]:
    """Every adversarial loss in every option, by its name in the golden file."""
    values = {}
    for kind, average in itertools.product(("mse", "hinge"), (True, False)):
        suffix = f"{kind}_{average}"
        values[f"gen_adv_{suffix}"] = losses.generator_adversarial(fake, kind, average)
        terms = losses.discriminator_adversarial(real, fake, kind, average)
        values[f"real_{suffix}"], values[f"fake_{suffix}"] = terms
    for options in itertools.product((True, False), repeat=3):
        values["feat_match_" + "_".join(map(str, options))] = losses.feature_matching(fake, real, *options)
    return values


def test_published_losses(golden: Golden) -> None:
    """Every option of every adversarial loss; without a suffix mse, nothing averaged."""
    actual = jax.jit(all_losses)(golden.real, golden.fake)
    actual |= {name: actual[f"{name}_mse_False"] for name in ("gen_adv", "real", "fake")}
    actual["feat_match"] = actual["feat_match_False_False_False"]
    loss_names = {name for name in golden.expected if name.startswith(("gen_adv", "real", "fake", "feat_match"))}
    assert set(actual) == loss_names
    for name, value in actual.items():
        np.testing.assert_allclose(value, golden.expected[name], rtol=2e-6, err_msg=name)


def test_published_gradient(golden: Golden) -> None:
    """By relative L2: float32 rounding decided some signs in the published gradient."""
    wanted = audio(golden.expected["grad_y_hat"])
    assert np.linalg.norm(golden.gradient - wanted) < 1e-3 * np.linalg.norm(wanted)


@pytest.mark.parametrize(
    ("shape", "kernel", "strides", "padding", "groups"),
    [
        ((2, 37, 8), (9, 2, 12), (4,), (4,), 4),  # grouped, the last samples not a whole stride
        ((2, 12, 8), (5, 2, 8), (1,), (2,), 4),
        ((2, 9, 4), (3, 2, 4), (1,), (4,), 2),  # more padding than the kernel covers
        ((2, 9, 4), (2, 2, 4), (3,), (0,), 2),  # the stride leaves samples out between the windows
        ((2, 31, 3), (5, 3, 4), (3,), (2,), 1),
        ((1, 12, 512), (5, 512, 3), (3,), (2,), 1),  # wide
        ((1, 6, 512), (2, 512, 1), (1,), (1,), 1),
        ((2, 7, 21, 3), (3, 9, 3, 4), (1, 2), (1, 4), 1),
        ((2, 9, 8, 3), (4, 4, 3, 4), (2, 2), (1, 1), 1),
        ((1, 5, 6, 2), (1, 6, 2, 1), (1, 1), (0, 0), 1),
    ],
)
def test_convolutions_are_xlas(
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    padding: tuple[int, ...],
    groups: int,
) -> None:
    """The formulations were chosen for speed, so they must give what XLA's own convolution and its gradients give."""
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype(np.float32) / s[-1] ** 0.5 for s in (shape, kernel))
    layout = ("NWC", "WIO", "NWC") if len(shape) == 3 else ("NHWC", "HWIO", "NHWC")

    def plain(x: jax.Array, w: jax.Array) -> jax.Array:
        sides = [(p, p) for p in padding]
        return lax.conv_general_dilated(x, w, strides, sides, dimension_numbers=layout, feature_group_count=groups)

    def results(f: Any) -> Any:
        y, pull = jax.vjp(f, x, w)
        return y, pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    ours = jax.jit(lambda: results(lambda x, w: normed.convolve(x, w, strides, padding, groups)))()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-5), ours, jax.jit(lambda: results(plain))()
    )


def test_short_input_is_refused() -> None:
    """An empty score would average to NaN many steps later."""
    with pytest.raises(ValueError, match="kernel 9 and padding 1 got only 6"):
        normed.convolve(jnp.zeros((1, 6, 1)), jnp.zeros((9, 1, 1)), (1,), (1,))
    with pytest.raises(ValueError, match=r"\[batch, samples, 1\]"):
        models.Discriminators(TINY).init(jax.random.key(0), jnp.zeros((1, 100, 2)))


def fill(model: nn.Module, x: jax.Array) -> Any:
    """Random variables without compiling the initialisers."""
    rng, shapes = np.random.default_rng(0), jax.eval_shape(lambda: model.init(jax.random.key(0), x))
    return jax.tree.map(lambda leaf: rng.uniform(-0.5, 0.5, leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def judge() -> Any:
    """Compiled (audio, natural) to the losses' gradients and the outputs of tiny discriminators of every kind."""
    model = models.Discriminators(TINY)
    variables = fill(model, jnp.zeros((1, 400, 1)))

    def loss(x: jax.Array, params: Any, natural: jax.Array) -> tuple[jax.Array, models.Outputs]:
        both = model.apply({**variables, "params": params}, jnp.concatenate([x, natural]))
        fake, real = ([[layer[half] for layer in layers] for layers in both] for half in np.s_[:2, 2:])
        terms = [
            losses.generator_adversarial(fake, "mse", True),
            *losses.discriminator_adversarial(real, fake, "mse", True),
        ]
        return sum(terms, losses.feature_matching(fake, real, True, True, False)), fake

    run = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    return lambda x, natural: run(x, variables["params"], natural)


def noise(batch: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, 400, 1)).astype(np.float32)


def test_order_and_shapes(judge: Any) -> None:
    """Scale copies, resolutions, the STFT, then periods; all with the batch first and one score channel."""
    _, outputs = judge(noise(), noise())
    assert [[layer.shape for layer in layers] for layers in outputs] == [
        [(2, 400, 8), (2, 100, 8), (2, 100, 8), (2, 100, 1)],
        [(2, 201, 8), (2, 51, 8), (2, 51, 8), (2, 51, 1)],
        [(2, 45, 17, 3), (2, 45, 17, 1)],
        [(2, 26, 32, 2), (2, 26, 16, 2), (2, 13, 8, 4), (2, 13, 1, 1)],
        [(2, 2, 67, 4), (2, 2, 67, 8), (2, 2, 68, 1)],
        [(2, 3, 45, 4), (2, 3, 45, 8), (2, 3, 46, 1)],
    ]


def test_crops_are_judged_one_by_one(judge: Any) -> None:
    """A score that depended on the rest of the batch would let a generator be paid for its neighbours.

    NaN in one crop reaches whatever depends on it, and must not reach the other.
    """
    x = noise()
    poisoned = x.copy()
    poisoned[1] = np.nan
    (_, alone), (_, beside) = judge(x, x), judge(poisoned, x)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b[0]), alone, beside)
    assert all(np.isnan(b[1]).all() for b in (layers[-1] for layers in beside))


def test_silence_has_finite_gradients(judge: Any) -> None:
    """A magnitude's plain root has an infinite slope at 0, which silence reaches in every bin: 0 * infinity is NaN."""
    half = noise()
    half[:, 100:] = 0
    for x in (np.zeros_like(half), half):
        gradients, outputs = judge(x, x)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gradients, outputs)))


def test_natural_side_of_feature_matching_has_no_gradient() -> None:
    """Otherwise a step of the generator could move what it is measured against."""
    real, fake = ([[jnp.full((2, 3), value), jnp.ones((2, 1))]] for value in (1.0, 2.0))
    gradients = jax.grad(lambda f, r: losses.feature_matching(f, r, False, False, False), (0, 1))(fake, real)
    np.testing.assert_allclose(gradients[0][0][0], np.full((2, 3), 1 / 6), rtol=1e-6)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients[1]))


def test_safe_abs_without_floor() -> None:
    """Slope 1 away from 0, by the definition of a magnitude, and 0 at 0, as the published magnitude has it."""
    value, slope = jax.vmap(jax.value_and_grad(lambda x: dsp.safe_abs(x, 0.0)))(jnp.array([0.0, 1e-12, -3.0]))
    np.testing.assert_allclose(value, [0, 1e-12, 3], rtol=1e-6)
    np.testing.assert_allclose(slope, [0, 1, -1], rtol=1e-6)


@pytest.mark.parametrize("dims", [1, 2])
def test_spectral_norm(dims: int) -> None:
    """Each training forward turns u towards the largest singular vector, so the kernel used approaches norm 1.

    The kernel used is what an impulse gives back. A frozen call may neither move u nor give another result twice.
    """
    layer = normed.NormedConv(6, (3,) * dims, (1,) * dims, (2,) * dims, norm="spectral")
    impulse = np.zeros((4, *(1,) * dims, 4), np.float32)
    impulse[range(4), ..., range(4)] = 1
    variables = jax.jit(layer.init)(jax.random.key(1), impulse)
    start = variables[normed.SPECTRAL]
    advance = jax.jit(lambda v: layer.apply(v, impulse, mutable=[normed.SPECTRAL]))

    def largest_singular_value(y: jax.Array) -> float:
        kernel = np.moveaxis(np.asarray(y - variables["params"]["bias"]), 0, -2)  # [window, in, out], turned round
        return float(np.linalg.norm(kernel.reshape(-1, 6), 2))

    errors = []
    for _ in range(30):
        y, changed = advance(variables)
        variables = {**variables, **changed}
        errors.append(abs(largest_singular_value(y) - 1))
    assert errors[0] > 1e-3 > 1e-4 > errors[-1]
    assert not np.array_equal(start["u"], variables[normed.SPECTRAL]["u"])
    frozen = layer.apply(variables, impulse, mutable=["params"])
    assert normed.SPECTRAL not in frozen[1]
    assert abs(largest_singular_value(frozen[0]) - 1) < 1e-4
    np.testing.assert_array_equal(frozen[0], layer.apply(variables, impulse))


def test_spectral_norm_gradient_ignores_the_power_method() -> None:
    """With u and v constant, sigma's gradient is u v^T, so the kernel's own direction is projected out: <W, dL/dW> = 0.

    That holds for any loss, since scaling W leaves W / (u^T W v) as it is.
    """
    layer = normed.NormedConv(3, (3,), (1,), (1,), norm="spectral")
    x = noise()[:, :20]
    variables = jax.jit(layer.init)(jax.random.key(0), x)

    def loss(params: Any) -> jax.Array:
        y, _ = layer.apply({**variables, "params": params}, x, mutable=[normed.SPECTRAL])
        return jnp.sum(jnp.sin(3 * y))

    kernel, gradient = variables["params"]["kernel"], jax.jit(jax.grad(loss))(variables["params"])["kernel"]
    assert abs(jnp.vdot(kernel, gradient)) < 1e-4 * jnp.linalg.norm(kernel) * jnp.linalg.norm(gradient)
    assert jnp.linalg.norm(gradient) > 1e-2


def test_initial_weights() -> None:
    """Uniform within 1/sqrt(fan_in), bias included, and a weight-normed kernel starts as its direction: g = ||v||."""
    layer = normed.NormedConv(32, (9,), (1,), (4,), groups=4, norm="weight")
    params = jax.jit(layer.init)(jax.random.key(0), np.zeros((1, 9, 16), np.float32))["params"]
    assert {name: x.shape for name, x in params.items()} == {"v": (9, 4, 32), "g": (1, 1, 32), "bias": (32,)}
    for x in (params["v"], params["bias"]):
        assert 0.8 / 6 < np.abs(x).max() < 1 / 6
    np.testing.assert_allclose(params["g"][0, 0], np.linalg.norm(params["v"].reshape(-1, 32), axis=0), rtol=1e-6)


def test_spectral_loss() -> None:
    """Zero at equality and growing with noise; finite at silence; its size is that of the two terms as defined.

    For a signal scaled by c the log spectra differ by ln c in each band that has bins, so that with the L1 term, linear
    in c - 1, the loss is known but for the natural spectrum's own sum.
    """
    config, rate = Spectral((64, 256), bands=8), 8000
    natural = noise()[..., 0]
    loss = jax.jit(lambda x, y: losses.spectral_loss(x, y, config, rate))
    near, far = (float(loss(natural + level * noise(seed=1)[..., 0], natural)) for level in (0.01, 0.1))
    assert 0 == float(loss(natural, natural)) < near < far
    expected = 0.0
    for s in config.win_lengths:
        filters = dsp.mel_filters(rate, s, 8)
        mel = np.abs(np.asarray(dsp.stft(natural, s, s // 4))) @ (filters / filters.sum(0))
        expected += mel.sum(-1).mean() + (s / 2) ** 0.5 * np.log(2) * 8**0.5
    np.testing.assert_allclose(loss(2 * natural, natural), expected, rtol=1e-3)
    gradient = jax.jit(jax.grad(loss))
    for x, y in ((natural, natural), (natural, 0 * natural), (0 * natural, natural), (0 * natural, 0 * natural)):
        assert np.isfinite(gradient(x, y)).all()
    logged = losses.metric_losses(
        2 * natural, natural, Losses(mel_weight=0, spectral=config, spectral_weight=3.0), rate
    )
    assert set(logged) == {"spectral_loss"}
    np.testing.assert_allclose(logged["spectral_loss"], 3 * loss(2 * natural, natural), rtol=1e-6)
