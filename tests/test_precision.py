"""Options that change how a step is computed, not what: bfloat16 convolutions, micro-batches, rematerialisation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adjax.config import Adversarial, Data, Discriminators, Losses, Mel, MultiPeriod, TrainConfig
from adjax.models.codec import Codec, Reconstruction
from adjax.nn import normed
from adjax.nn.conv import elu
from adjax.nn.precision import Precision, convolve_time, in_precision
from adjax.train.state import Optimizers, TrainState, from_variables, variables
from adjax.train.steps import adversarial_step
from adjax.weights import flatten
from tests.conftest import TINY_CONV, fill
from tests.step_on_devices import fill_discriminators

SMALL = Discriminators(scale=None, period=MultiPeriod((3,), channels=2, max_channels=4, strides=(3, 1)))
CONFIG = TrainConfig(
    replace(TINY_CONV, quantizer=replace(TINY_CONV.quantizer, dropout=0.5, restart_below=0.5)),
    Data(batch_size=4, crop_samples=400, context_samples=40),
    Losses(mel=Mel((128,), (32,), (128,), (12,)), mel_weight=1.0),
    adversarial=Adversarial(discriminators=SMALL),
    steps=2,
)
OPTIMIZERS = Optimizers(optax.sgd(0.002), optax.sgd(0.02))


def start(config: TrainConfig) -> TrainState:
    return from_variables(config, fill(config.model), fill_discriminators(SMALL, 400), OPTIMIZERS)


def step(config: TrainConfig) -> tuple[dict[str, np.ndarray], Any]:
    """Both networks, codebooks and metrics after a joint adversarial step of SGD, and the step's jaxpr."""
    audio = np.random.default_rng(1).standard_normal((4, 440, 1)).astype(np.float32) * 0.3
    traced = jax.jit(adversarial_step(config, OPTIMIZERS, None)).trace(start(config), audio)
    state, metrics = traced.lower().compile()(start(config), audio)
    tree = {"generator": variables(state), "discriminators": state.discriminators, "metrics": metrics}
    return {name: np.asarray(leaf) for name, leaf in flatten(tree).items()}, traced.jaxpr


@pytest.fixture(scope="module")
def plain() -> dict[str, np.ndarray]:
    return step(CONFIG)[0]


def equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation of a jaxpr and of those within it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


@pytest.mark.slow
def test_micro_batches_and_rematerialisation_change_nothing(plain: dict[str, np.ndarray]) -> None:
    """All terms here are means over crops; dropout, restarts and averages are drawn and taken for the whole batch."""
    divided, jaxpr = step(replace(CONFIG, accumulate=2, remat=True))
    names = {str(e.primitive) for e in equations(jaxpr.jaxpr)}
    assert "scan" in names
    assert names & {"checkpoint", "remat", "remat2"}
    assert divided.keys() == plain.keys()
    for name, array in plain.items():
        np.testing.assert_allclose(divided[name], array, rtol=2e-4, atol=2e-6, err_msg=name)


def test_rematerialisation_and_bfloat16_keep_less() -> None:
    """What a forward pass holds for the backward pass, by its shapes: of blocks only their inputs, of inputs half."""
    variables = jax.tree.map(jnp.asarray, fill(TINY_CONV))
    audio = jnp.zeros((4, 2000, 1))

    def held(remat: bool, precision: Precision) -> int:
        def decoded(params: Any) -> jax.Array:
            tree = {**variables, "params": in_precision(params, precision)}
            return jnp.sum(cast(Reconstruction, Codec(TINY_CONV, remat).apply(tree, audio)).audio)

        backward = jax.eval_shape(lambda params: jax.vjp(decoded, params)[1], variables["params"])
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(backward))

    whole = held(False, "float32")
    assert held(True, "float32") < 0.5 * whole
    assert held(False, "bfloat16") < 0.95 * whole  # little: ELU keeps where its input was positive
    assert held(True, "bfloat16") < 0.5 * whole


def test_a_step_in_bfloat16(plain: dict[str, np.ndarray]) -> None:
    """Losses near those of float32; every convolution in bfloat16, forward and backward; all that is kept in float32.

    The other products, of which distances to codes and mel bands are made, stay in float32.
    """
    config = replace(CONFIG, precision="bfloat16")
    rough, jaxpr = step(config)
    for name, array in rough.items():
        assert array.dtype == plain[name].dtype, name
        if name.startswith("metrics/") and "codes_used" not in name and "ppl" not in name:
            assert array == pytest.approx(plain[name], rel=0.05), name
    assert any(rough[name] != plain[name] for name in plain if name.startswith("metrics/"))
    found = [(str(e.primitive), {str(v.aval.dtype) for v in e.invars}) for e in equations(jaxpr.jaxpr)]
    convolutions = [types for name, types in found if name == "conv_general_dilated"]
    assert len(convolutions) > 60
    assert all(types == {"bfloat16"} for types in convolutions)
    products = [types for name, types in found if name == "dot_general"]
    assert products
    assert all(types == {"float32"} for types in products)


def test_kernels_alone_are_cast() -> None:
    """Biases, gains and scales are added and multiplied in float32; gradients come back in float32."""
    params = {"conv": {"v": jnp.ones((3, 2, 2)), "g": jnp.ones((1, 1, 2)), "bias": jnp.ones(2)}, "norm": {"scale": 1.0}}
    cast = in_precision(params, "bfloat16")
    assert {k: v.dtype.name for k, v in cast["conv"].items()} == {"v": "bfloat16", "g": "float32", "bias": "float32"}
    assert cast["norm"]["scale"] == 1.0
    assert in_precision(params, "float32") is params
    gradient = jax.grad(lambda p: jnp.sum(in_precision(p, "bfloat16")["conv"]["v"]).astype(jnp.float32))(params)
    assert gradient["conv"]["v"].dtype == jnp.float32


def test_two_dimensions_compute_what_one_does() -> None:
    """The way around jax issue 37922 is the same convolution; small whole numbers are exact in either type."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(-3, 4, (2, 20, 4)), jnp.float32)
    kernel = jnp.asarray(rng.integers(-3, 4, (3, 2, 6)), jnp.float32)
    for options in ({"stride": 2, "padding": (2, 1)}, {"dilation": 3}):
        wide = convolve_time(x, kernel, groups=2, **options)  # type: ignore[arg-type]
        narrow = convolve_time(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), groups=2, **options)  # type: ignore
        np.testing.assert_array_equal(narrow.astype(jnp.float32), wide)


@pytest.mark.parametrize(
    ("shape", "kernel", "strides", "groups"),
    [((2, 40, 8), (5, 2, 8), (2,), 4), ((2, 9, 512), (3, 512, 2), (1,), 1), ((1, 9, 9, 2), (3, 3, 2, 4), (1, 2), 1)],
)
def test_discriminators_convolve_in_bfloat16(shape: Any, kernel: Any, strides: Any, groups: int) -> None:
    """Each formulation (grouped with its own gradient, as a matrix, in two dimensions) keeps the type both ways."""

    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        y = normed.convolve(x, kernel, strides, tuple(n // 2 for n in kernel.shape[:-2]), groups)
        assert y.dtype == jnp.bfloat16
        return jnp.sum(y.astype(jnp.float32))

    arrays = [jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in (shape, kernel)]
    jaxpr = jax.make_jaxpr(jax.grad(loss, (0, 1)))(*arrays)
    products = [e for e in equations(jaxpr.jaxpr) if str(e.primitive) in ("conv_general_dilated", "dot_general")]
    assert len(products) >= 2
    assert {str(v.aval.dtype) for e in products for v in e.invars} == {"bfloat16"}


def test_elu_near_zero() -> None:
    """exp(x) - 1 in bfloat16 would be off by a tenth of x = -0.01; rounding the result is off by 0.4 %."""
    x = jnp.asarray([-0.01, -1.0, 0.3], jnp.bfloat16)
    wanted = elu(x.astype(jnp.float32))
    np.testing.assert_allclose(np.asarray(elu(x), np.float32), wanted, rtol=2**-8)
