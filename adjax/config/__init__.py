"""Configurations: frozen dataclasses that say everything about a model or a training run."""

from __future__ import annotations

from adjax.config.discriminators import ComplexStft, Discriminators, MultiPeriod, MultiResolution, MultiScale, Norm
from adjax.config.model import (
    ConvDecoder,
    ConvEncoder,
    ModelConfig,
    Quantizer,
    SpectralDecoder,
    SpectralEncoder,
    Vocoder,
)
from adjax.config.training import (
    PARTS,
    Adversarial,
    Augmentation,
    Data,
    Losses,
    Mel,
    Optimizer,
    Part,
    Spectral,
    Stft,
    TrainConfig,
)

__all__ = [
    "PARTS",
    "Adversarial",
    "Augmentation",
    "ComplexStft",
    "ConvDecoder",
    "ConvEncoder",
    "Data",
    "Discriminators",
    "Losses",
    "Mel",
    "ModelConfig",
    "MultiPeriod",
    "MultiResolution",
    "MultiScale",
    "Norm",
    "Optimizer",
    "Part",
    "Quantizer",
    "Spectral",
    "SpectralDecoder",
    "SpectralEncoder",
    "Stft",
    "TrainConfig",
    "Vocoder",
]
