"""The vocoders give the numbers that the published system gave (tests/golden/README.md)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adjax.models.vocoder import Vocoder
from adjax.nn.conv import STREAM, zero_buffers
from adjax.torch_port import VocoderModel, import_generator, to_torch, vocoder_rows

GOLDEN = Path(__file__).parent / "golden"
CASES = ("vocoder_v0", "vocoder_v1", "vocoder_v2")


@cache
def load(case: str) -> tuple[VocoderModel, Any, dict[str, np.ndarray]]:
    model, variables, _ = import_generator(GOLDEN / case / "checkpoint-10steps.pkl")
    assert isinstance(model, VocoderModel)
    with np.load(GOLDEN / case / "expected.npz") as file:
        return model, jax.tree.map(jnp.asarray, variables), dict(file)


def decoder(variables: Any) -> dict[str, Any]:
    return {"params": variables["params"]["decoder"], "stats": variables["stats"]["decoder"]}


@pytest.mark.parametrize("case", CASES)
def test_offline_and_gradients(case: str) -> None:
    """Audio within 5e-5, and the gradient of every parameter.

    In v1 float32 rounding, which differs from machine to machine, decides the signs of some activations. They are
    frozen into its gradients, so that these are computed in float64 and compared by their norm.
    """
    model, variables, expected = load(case)
    rounded = case == "vocoder_v1"
    with jax.enable_x64(rounded):
        kind = np.float64 if rounded else np.float32
        zq, weight = (np.moveaxis(expected[name], 1, -1).astype(kind) for name in ("zq", "grad_w"))

        @jax.jit
        def run(tree: Any) -> Any:
            def loss(params: Any) -> Any:
                audio = Vocoder(model.decoder).apply({**tree, "params": params}, zq)
                return jnp.mean(audio * weight), audio

            return jax.value_and_grad(loss, has_aux=True)(tree["params"])

        (value, audio), gradient = run(jax.tree.map(lambda leaf: np.asarray(leaf, kind), decoder(variables)))
    assert audio.dtype == kind
    np.testing.assert_allclose(audio, np.moveaxis(expected["y"], 1, -1), rtol=0, atol=5e-5)
    np.testing.assert_allclose(value, expected["grad_loss"], rtol=1e-4, atol=1e-8)
    tree = {**variables, "params": {"decoder": jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), gradient)}}
    named = to_torch(vocoder_rows(model.decoder, model.dim), tree)
    wanted = {k.removeprefix("grad/"): v for k, v in expected.items() if k.startswith("grad/")}
    assert len(wanted) > 50
    if rounded:
        difference = sum(float(np.sum((named[k] - v) ** 2)) for k, v in wanted.items())
        assert (difference / sum(float(np.sum(v**2)) for v in wanted.values())) ** 0.5 < 5e-4
        return
    for name, array in wanted.items():
        np.testing.assert_allclose(named[name], array, rtol=0, atol=1e-4 * np.abs(array).max(), err_msg=name)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("frames", [1, 4])
def test_streaming_from_the_published_warm_start(case: str, frames: int) -> None:
    """Chunks of 1 and 4 frames after the published warm-up, which starts from buffers of zeros."""
    model, variables, expected = load(case)
    tree, vocoder = decoder(variables), Vocoder(model.decoder)
    step = jax.jit(lambda state, zq: vocoder.apply({**tree, STREAM: state}, zq, mutable=[STREAM]))
    warmup = jnp.asarray(expected["warmup_zq"])
    shapes = jax.eval_shape(lambda: vocoder.apply(tree, warmup, mutable=[STREAM])[1][STREAM])
    state = zero_buffers(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))
    state = step(state, warmup)[1][STREAM]
    zq, audio = np.moveaxis(expected["zq"], 1, -1)[:1], []
    for start in range(0, zq.shape[1], frames):
        y, mutated = step(state, zq[:, start : start + frames])
        state = mutated[STREAM]
        audio.append(np.asarray(y))
    wanted = np.moveaxis(expected[f"stream{frames}_y"], 1, -1)
    np.testing.assert_allclose(np.concatenate(audio, axis=1), wanted, rtol=0, atol=5e-5)
