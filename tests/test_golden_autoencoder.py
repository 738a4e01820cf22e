"""The symmetric autoencoders give the numbers that the published system gave (tests/golden/README.md)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adjax.models.codec import Codec
from adjax.nn import quantize
from adjax.nn.quantize import Codebooks
from adjax.streaming import Codec as Streaming
from adjax.torch_port import autoencoder_rows, import_checkpoint, to_torch

GOLDEN = Path(__file__).parent / "golden"
CAUSAL = ("symad", "symaad", "symad_hop320", "symad_stereo")
CASES = (*CAUSAL, "symad_noncausal")


@cache
def load(case: str) -> tuple[Any, Any, dict[str, np.ndarray], Streaming]:
    config, variables, _ = import_checkpoint(GOLDEN / case / "checkpoint-10steps.pkl")
    with np.load(GOLDEN / case / "expected.npz") as file:
        expected = dict(file)
    return config, jax.tree.map(jnp.asarray, variables), expected, Streaming(config, variables)


def last(x: np.ndarray) -> np.ndarray:
    """(batch, channels, time) to [batch, time, channels]."""
    return np.moveaxis(x, 1, -1)


def close(actual: Any, expected: np.ndarray, share: float = 1e-5) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=share * np.abs(expected).max())


def batch_last(codes: np.ndarray) -> np.ndarray:
    """(stage, batch, frame) to [batch, frame, stage]."""
    return np.moveaxis(codes, 0, -1)


@pytest.mark.parametrize("case", CASES)
def test_offline(case: str) -> None:
    """Codes are integers, so they must be equal; audio differs by the order of float32 sums only."""
    config, _, expected, codec = load(case)
    audio = last(expected["x"])
    if audio.shape[2] != config.audio_channels:
        audio = audio.reshape(-1, audio.shape[1], config.audio_channels)
    codes = np.asarray(codec.encode(audio))
    np.testing.assert_array_equal(codes, batch_last(expected["codes"]))
    close(codec.decode(codes), last(expected["y"]))


@pytest.mark.parametrize("case", CASES)
def test_training_forward_and_gradients(case: str) -> None:
    """Latents, stage losses, perplexity, EMA statistics and every gradient of one training forward pass."""
    config, variables, expected, _ = load(case)
    model, size = Codec(config), config.quantizer.codebook_size
    weight = last(expected["grad_w"])

    def loss(params: Any) -> Any:
        out = model.apply({**variables, "params": params}, last(expected["x"]))
        losses = quantize.stage_losses(out.quantized)
        return jnp.sum(losses) + jnp.mean(out.audio * weight), (out, losses)

    @jax.jit
    def run(params: Any) -> Any:
        (value, (out, losses)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        z = out.quantized.residuals[0]
        count = quantize.counts(out.quantized.codes, size)
        books = Codebooks(**variables["codebook"]["quantizer"])
        books = quantize.update(books, count, quantize.sums(out.quantized, size), config.quantizer)
        features = model.apply(variables, last(expected["x"]), method=lambda codec, x: codec.encoder(x))
        return value, losses, quantize.perplexity(count), books, features, z, out.quantized.zq, out.audio, gradient

    value, losses, perplexity, books, features, z, zq, audio, gradient = run(variables["params"])
    close(features, last(expected["encoder_out"]))
    np.testing.assert_allclose(z, last(expected["z"]), rtol=0, atol=4e-5)
    close(zq, last(expected["zq"]))
    close(audio, last(expected["y"]))
    np.testing.assert_allclose(losses, expected["vq_loss"], rtol=1e-5)
    np.testing.assert_allclose(perplexity, expected["perplexity"], rtol=1e-5)
    np.testing.assert_allclose(value, expected["grad_loss"], rtol=1e-5)
    close(zq, last(expected["train_zq"]))
    np.testing.assert_allclose(losses, expected["train_vq_loss"], rtol=1e-5)
    np.testing.assert_allclose(perplexity, expected["train_perplexity"], rtol=1e-5)
    for i in range(config.quantizer.codebooks):
        np.testing.assert_allclose(books.embed[i].T, expected[f"train_embed_{i}"], rtol=0, atol=2e-5)
        np.testing.assert_allclose(books.embed_avg[i].T, expected[f"train_embed_avg_{i}"], rtol=0, atol=2e-5)
        np.testing.assert_allclose(books.cluster_size[i], expected[f"train_cluster_size_{i}"], rtol=0, atol=2e-5)
    named = to_torch(autoencoder_rows(config), {**variables, "params": jax.tree.map(np.asarray, gradient)})
    wanted = {k.removeprefix("grad/"): v for k, v in expected.items() if k.startswith("grad/")}
    assert wanted
    for name, array in wanted.items():
        close(named[name], array, 1e-4)


@pytest.mark.parametrize("case", CAUSAL)
@pytest.mark.parametrize("frames", [1, 4, 0])
def test_streaming_from_the_published_warm_start(case: str, frames: int) -> None:
    """Chunks of 1 and 4 frames and one whole call (0), all from the state after 8192 zeros."""
    config, _, expected, codec = load(case)
    audio = last(expected["x"])[:1]
    name = f"stream{frames}" if frames else "file"
    total = audio.shape[1] // codec.hop_length
    samples = (frames or total) * codec.hop_length
    encoder, decoder = codec.init_encoder(1, warm=True), codec.init_decoder(1, warm=True)
    codes, decoded = [], []
    for start in range(0, audio.shape[1], samples):
        encoder, chunk = codec.encode_step(encoder, audio[:, start : start + samples])
        decoder, sound = codec.decode_step(decoder, chunk)
        codes.append(np.asarray(chunk))
        decoded.append(np.asarray(sound))
    flat = (
        expected[f"{name}_flat_codes"] - np.arange(config.quantizer.codebooks)[:, None] * config.quantizer.codebook_size
    )
    np.testing.assert_array_equal(np.concatenate(codes, axis=1)[0], flat.T)
    close(np.concatenate(decoded, axis=1), last(expected[f"{name}_y"]))


def test_non_causal_models_do_not_stream() -> None:
    """A non-causal model needs the future, so the façade must refuse rather than return something else."""
    codec = load("symad_noncausal")[3]
    with pytest.raises(ValueError, match="not causal"):
        codec.init_encoder(1)
