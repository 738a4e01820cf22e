"""Losses, their gradients and the mel filters are those of the published system (tests/golden/README.md)."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from adjax import dsp, losses
from adjax.config import Mel, Stft

RATE = 48000
MEL_48K = Mel()
MEL_MULTI = Mel((1024, 2048, 512), (120, 240, 50), (600, 1200, 240), (80, 80, 80), 80.0, 7600.0, 10.0)


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "golden" / "losses" / "expected.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def pair(expected: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Decoded and natural audio [batch, samples]."""
    return expected["y_hat"][:, 0], expected["y"][:, 0]


def test_mel_filters(expected: dict[str, np.ndarray]) -> None:
    """Area-normalised triangles on Slaney's scale."""
    np.testing.assert_allclose(dsp.mel_filters(RATE, 2048, 80), expected["melmat_48k"], rtol=0, atol=1e-7)


def test_log_mel(expected: dict[str, np.ndarray], pair: tuple[np.ndarray, np.ndarray]) -> None:
    """The published array is (batch, mel, frame)."""
    actual = np.moveaxis(np.asarray(losses.log_mel(pair[1], MEL_48K, RATE)), 1, 2)
    np.testing.assert_allclose(actual, expected["logmel_48k"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "config", "rate"),
    [("mel_48k", MEL_48K, RATE), ("mel_24k", MEL_48K, 24000), ("mel_multi_log10", MEL_MULTI, 24000)],
)
def test_mel_loss(
    name: str, config: Mel, rate: int, expected: dict[str, np.ndarray], pair: tuple[np.ndarray, np.ndarray]
) -> None:
    """Value and gradient in three settings."""
    run = jax.jit(jax.value_and_grad(lambda decoded: losses.mel_loss(decoded, pair[1], config, rate)))
    value, gradient = run(pair[0])
    np.testing.assert_allclose(value, expected[name], rtol=1e-5)
    wanted = expected[f"grad_{name}"][:, 0]
    np.testing.assert_allclose(gradient, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())


def test_stft_losses(expected: dict[str, np.ndarray], pair: tuple[np.ndarray, np.ndarray]) -> None:
    """Both terms; the gradient of their sum by relative L2, since float32 rounding decided a sign in the golden one."""

    def loss(decoded: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        terms = losses.stft_losses(decoded, pair[1], Stft())
        return terms[0] + terms[1], terms

    (_, terms), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(pair[0])
    np.testing.assert_allclose(terms, [expected["stft_sc"], expected["stft_mag"]], rtol=1e-5)
    wanted = expected["grad_stft"][:, 0]
    assert np.linalg.norm(gradient - wanted) < 5e-3 * np.linalg.norm(wanted)


def test_shape_loss(expected: dict[str, np.ndarray], pair: tuple[np.ndarray, np.ndarray]) -> None:
    """Value and gradient over three window lengths."""
    value, gradient = jax.value_and_grad(lambda decoded: losses.shape_loss(decoded, pair[1], (300, 200, 100)))(pair[0])
    np.testing.assert_allclose(value, expected["shape"], rtol=1e-5)
    wanted = expected["grad_shape"][:, 0]
    np.testing.assert_allclose(gradient, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_own_losses_are_zero_for_equal_signals_and_grow_with_noise(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """A distance not zero at equality, or not larger for more noise, cannot be minimised by the right answer."""
    natural = pair[1]
    noise = np.random.default_rng(0).standard_normal(natural.shape).astype(np.float32)
    density = Mel((1024,), (512,), (1024,), (64,), density=True)

    def distances(decoded: np.ndarray) -> list[float]:
        return [
            float(losses.complex_loss(decoded, natural, density, RATE, 4000.0)),
            float(losses.mel_loss(decoded, natural, density, RATE)),
            float(losses.magnitude_loss(decoded, natural, density, RATE, 4000.0)),
            float(losses.error_loss(decoded, natural)),
        ]

    same, near, far = (distances(natural + level * noise) for level in (0.0, 0.01, 0.1))
    assert same[:3] == [0.0, 0.0, 0.0]
    assert all(a < b < c for a, b, c in zip(same, near, far, strict=True))


def test_magnitude_loss_is_of_natural_logarithms_above_its_frequency_alone() -> None:
    """A gain of e everywhere costs 1; a loud tone below the frequency nothing, a quiet one above it something."""
    natural = np.random.default_rng(1).standard_normal((1, 4800)).astype(np.float32)
    time = np.arange(4800) / RATE
    low, high = (np.sin(2 * np.pi * f * time).astype(np.float32) for f in (1000.0, 9000.0))
    config = Mel((1024,), (512,), (1024,), (64,))

    def distance(decoded: np.ndarray) -> float:
        return float(losses.magnitude_loss(decoded[:, 1024:-1024], natural[:, 1024:-1024], config, RATE, 6000.0))

    assert distance(np.e * natural) == pytest.approx(1.0, rel=1e-4)
    assert distance(natural + 10 * low) < 0.1 * distance(natural + 10 * high)
