"""Shared by all tests: several host devices, golden cases, and a tiny model."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
if version("jaxlib").startswith("0.10."):  # later ones do not know the flag, and end the process
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"  # compiles gradients several times faster
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("ADJAX_NO_REEXEC", "1")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # what several tests, workers or commands compile is compiled once
    _compiled = tempfile.TemporaryDirectory()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import numpy as np
import pytest

from adjax import weights
from adjax.config import ConvDecoder, ConvEncoder, ModelConfig, Quantizer, SpectralDecoder, SpectralEncoder
from adjax.models import codec

jax.config.update("jax_disable_most_optimizations", True)  # compilation is most of what tests cost

FAST_TO_COMPILE = {"xla_cpu_use_fusion_emitters": False} if "fusion_emitters" in os.environ["XLA_FLAGS"] else {}
GOLDEN = Path(__file__).parent / "golden"

TINY_CONV = ModelConfig(
    "tiny-conv",
    sample_rate_hz=8000,
    encoder=ConvEncoder(channels=4, ratios=(2, 3), strides=(4, 5), aligned=True),
    quantizer=Quantizer(codebooks=3, codebook_size=16, dim=6),
    decoder=ConvDecoder(channels=4, ratios=(3, 2), strides=(5, 4)),
)
TINY_SPECTRAL = ModelConfig(
    "tiny-spectral",
    sample_rate_hz=8000,
    encoder=SpectralEncoder(hop_samples=20, channels=8, dilations=(1, 2), gain_bands=4),
    quantizer=Quantizer(codebooks=3, codebook_size=16, dim=6, commit_every_stage=True, predicted=4, beams=2),
    decoder=SpectralDecoder(
        hop_samples=20,
        channels=8,
        dilations=(1, 2),
        random_signs_above_hz=2000.0,
        gain_bands=4,
        noise_smoothing_bins=3,
    ),
    projector_bias=True,
)


def fill(config: ModelConfig, seed: int = 0) -> dict[str, Any]:
    """Random variables of a model without compiling its initialisers."""
    rng = np.random.default_rng(seed)
    shapes = weights.flatten(jax.eval_shape(lambda: codec.init(config, jax.random.key(0))))
    flat = {}
    for name, leaf in shapes.items():
        if name.endswith(("scale", "sigma", "/g")):
            flat[name] = rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        else:
            fan_in = float(np.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 10.0
            spread = 1.0 if "codebook" in name else fan_in**-0.5
            flat[name] = (rng.standard_normal(leaf.shape) * spread).astype(np.float32)
    return weights.unflatten(flat)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny randomly filled model, mono at 8 kHz, hop 20, with a delay of one hop."""
    folder = tmp_path_factory.mktemp("models") / "tiny-spectral"
    return str(weights.save_model(folder, TINY_SPECTRAL, fill(TINY_SPECTRAL)))


@pytest.fixture(scope="session")
def tiny_codec(tiny_model: str) -> Any:
    """The codec of `tiny_model`."""
    import adjax

    return adjax.load(tiny_model)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Path]:
    """Folder of a golden case by its name."""
    return lambda name: GOLDEN / name
