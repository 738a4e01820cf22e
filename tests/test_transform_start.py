"""A symAD that starts as a transform coder passes on what it should: low bands as they are, levels above them."""

import runpy
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from adjax import weights
from adjax.models import codec

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "transform_start.py"
RATE_HZ, HOP, SAMPLES = 48000, 300, 24000


@pytest.fixture(scope="module")
def started() -> dict[str, Any]:
    names = runpy.run_path(str(SCRIPT))
    stats = weights.load_model(weights.find_model("spectral48"))[1]["stats"]
    speech = names["Speech"](np.asarray(stats["encoder"]["sigma"], np.float64))
    variables = jax.tree.map(np.array, codec.init(names["MODEL"], jax.random.key(0)))
    rng = np.random.default_rng(0)
    names["start_encoder"](variables["params"], speech, rng)
    names["start_decoder"](variables["params"], speech, rng)
    net = codec.Codec(names["MODEL"])
    return {
        "bands": names["BANDS"],
        "latents": partial(jax.jit(lambda tree, x: net.apply(tree, x, method="latents")), variables),
        "decode": partial(jax.jit(lambda tree, z: net.apply(tree, z, method="decode_latents")), variables),
    }


def tone(hz: float, amplitude: float) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(SAMPLES) / RATE_HZ)).astype(np.float32)[None, :, None]


def test_low_frequencies_come_back_a_hop_late(started: dict[str, Any]) -> None:
    audio = tone(220, 0.1) + tone(1130, 0.05)
    latents = np.array(started["latents"](audio))
    latents[..., -started["bands"] :] = -8  # silence above: without its noise
    decoded = np.asarray(started["decode"](latents))[0, HOP:, 0]
    error = (decoded - audio[0, :-HOP, 0])[2 * HOP :]
    assert np.sum(error**2) < 10 ** (-25 / 10) * np.sum(audio**2)


def test_levels_are_natural_logarithms(started: dict[str, Any]) -> None:
    quiet, loud = (np.asarray(started["latents"](tone(5000, a)))[0, 10:, -started["bands"] :] for a in (0.0003, 0.003))
    band = quiet.mean(axis=0).argmax()
    assert loud[:, band].mean() - quiet[:, band].mean() == pytest.approx(np.log(10), rel=0.15)


def test_levels_come_back_as_noise_of_that_level(started: dict[str, Any]) -> None:
    latents = np.array(started["latents"](tone(220, 0.1)))
    latents[..., -started["bands"] :] = -8
    levels = []
    for level in (5.0, 6.0):
        latents[..., -1] = level
        spectrum = np.abs(np.fft.rfft(np.asarray(started["decode"](latents))[0, 2400:, 0]))
        levels.append(np.log(np.mean(spectrum[int(0.85 * len(spectrum)) : int(0.99 * len(spectrum))] ** 2)) / 2)
    assert levels[1] - levels[0] == pytest.approx(1, abs=0.1)
