"""adjax's own networks before and apart from training."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from adjax.config import ModelConfig, Quantizer
from adjax.models import codec
from tests.conftest import TINY_SPECTRAL

HOP = TINY_SPECTRAL.hop_samples
MODEL = replace(
    TINY_SPECTRAL,
    encoder=replace(TINY_SPECTRAL.encoder, channels=64, dilations=(1,)),
    quantizer=Quantizer(codebooks=1, codebook_size=2, dim=HOP + TINY_SPECTRAL.encoder.gain_bands),
    decoder=replace(TINY_SPECTRAL.decoder, channels=64, dilations=(1,), random_signs_above_hz=1e9),
)


def test_what_lies_far_below_the_noise_floor_is_coded_as_silence() -> None:
    """Noise 40 dB under the floor has the latents of silence, without a floor it has not; loud noise has the same."""
    floored = replace(MODEL, encoder=replace(MODEL.encoder, noise_floor_db=-10.0))
    noise = np.random.default_rng(0).standard_normal(20 * HOP)
    audio = jnp.asarray((np.array([0, 10**-2.5, 10])[:, None] * noise)[..., None].astype(np.float32))

    @partial(jax.jit, static_argnums=0)
    def latents(model: ModelConfig, x: jax.Array) -> jax.Array:
        variables = codec.init(model, jax.random.key(0))
        return codec.Codec(model).apply(variables, x, method=lambda c, x: c.latents(x))  # type: ignore[return-value]

    silence, faint, loud = latents(MODEL, audio)
    assert np.abs(faint - silence).max() > 0.5
    floored_silence, floored_faint, floored_loud = latents(floored, audio)
    np.testing.assert_allclose(floored_faint, floored_silence, atol=0.1)
    np.testing.assert_allclose(floored_loud, loud, atol=0.01)


def test_networks_start_as_a_transform_coder() -> None:
    """Fresh networks whose latents hold every bin give the signal's shape back, and its level within 6 dB."""
    noise = np.random.default_rng(0).standard_normal(40 * HOP)
    audio = np.convolve(noise, np.hanning(9), "same").astype(np.float32)
    both = jnp.asarray(np.pad(np.stack([0.3 * audio, 0.03 * audio]), ((0, 0), (0, HOP)))[..., None])

    @jax.jit
    def fresh(x: jax.Array) -> jax.Array:
        variables = codec.init(MODEL, jax.random.key(0))
        return codec.Codec(MODEL).apply(variables, x, method=lambda c, x: c.decode_latents(c.latents(x)))

    decoded = fresh(both)
    for natural, again in zip(both[:, :-HOP, 0], decoded[:, HOP:, 0], strict=True):  # type: ignore[index]
        assert np.corrcoef(again, natural)[0, 1] > 0.85
        assert 0.5 < np.std(again) / np.std(natural) < 2
