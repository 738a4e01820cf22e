"""Configurations: frozen dataclasses that say everything about a model or a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from adjax.strict_json import ConfigError


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


# --------------------------------------------------------------------------------------------------------- models


@dataclass(frozen=True)
class ConvEncoder:
    """AudioDec's encoder: a causal convolution, then a block of residual units and a strided convolution per stride."""

    channels: int = 32
    ratios: tuple[int, ...] = (2, 4, 8, 16)
    strides: tuple[int, ...] = (3, 4, 5, 5)
    in_channels: int = 1
    bias: bool = True
    causal: bool = True
    aligned: bool = False  # strided convolutions see their whole hop (left padding k-s) instead of its first sample
    activate: bool = False  # ELU after the encoder (symAAD)
    weight_norm: bool = False

    def __post_init__(self) -> None:
        _require(
            len(self.ratios) == len(self.strides), "encoder.ratios and encoder.strides must have one entry a block"
        )
        _require(
            min(self.channels, self.in_channels, *self.ratios, *self.strides) > 0, "encoder sizes must be positive"
        )
        _require(self.causal or not self.aligned, "encoder.aligned is an alignment of causal convolutions")

    @property
    def hop_samples(self) -> int:
        return math.prod(self.strides)


@dataclass(frozen=True)
class ConvDecoder:
    """AudioDec's symmetric decoder: the encoder mirrored, transposed convolutions first in each block."""

    channels: int = 32
    ratios: tuple[int, ...] = (16, 8, 4, 2)
    strides: tuple[int, ...] = (5, 5, 4, 3)
    out_channels: int = 1
    bias: bool = True
    causal: bool = True
    activate: bool = False  # ELU before each block and the last convolution, tanh at the output (symAAD)
    weight_norm: bool = False

    def __post_init__(self) -> None:
        _require(
            len(self.ratios) == len(self.strides), "decoder.ratios and decoder.strides must have one entry a block"
        )
        _require(
            min(self.channels, self.out_channels, *self.ratios, *self.strides) > 0, "decoder sizes must be positive"
        )

    @property
    def hop_samples(self) -> int:
        return math.prod(self.strides)

    @property
    def delay_samples(self) -> int:
        return 0


@dataclass(frozen=True)
class SpectralEncoder:
    """adjax's own encoder: MDCT and MDST frames, whitened, then causal residual units at the frame rate."""

    hop_samples: int = 300
    channels: int = 224
    dilations: tuple[int, ...] = (1, 3, 1, 3)
    in_channels: int = 1

    @property
    def causal(self) -> bool:
        return True

    def __post_init__(self) -> None:
        _require(self.hop_samples > 0 and self.hop_samples % 2 == 0, "encoder.hop_samples must be positive and even")
        _require(min(self.channels, *self.dilations) > 0, "encoder sizes must be positive")
        _require(self.in_channels == 1, "encoder.in_channels must be 1: channels are coded as streams of their own")


@dataclass(frozen=True)
class SpectralDecoder:
    """adjax's own decoder: causal residual units at the frame rate, then whitened MDCT bins and overlap-add."""

    hop_samples: int = 300
    channels: int = 256
    dilations: tuple[int, ...] = (1, 3, 9, 1, 3, 1)
    out_channels: int = 1
    random_signs_above_hz: float = 4000.0
    noise_smoothing_bins: int = 1  # above it, magnitudes are the RMS over so many neighbouring bins

    @property
    def causal(self) -> bool:
        return True

    def __post_init__(self) -> None:
        _require(self.hop_samples > 0 and self.hop_samples % 2 == 0, "decoder.hop_samples must be positive and even")
        _require(min(self.channels, *self.dilations) > 0, "decoder sizes must be positive")
        _require(self.noise_smoothing_bins % 2 == 1, "decoder.noise_smoothing_bins must be odd")
        _require(self.out_channels == 1, "decoder.out_channels must be 1: channels are coded as streams of their own")

    @property
    def delay_samples(self) -> int:
        return self.hop_samples


@dataclass(frozen=True)
class Quantizer:
    """Residual vector quantizer with EMA codebooks; the options below `epsilon` are off in the published models."""

    codebooks: int = 8
    codebook_size: int = 1024
    dim: int = 64
    decay: float = 0.8
    epsilon: float = 1e-5
    commit_every_stage: bool = False  # stage losses reach the encoder through every stage (published: the first only)
    kmeans_start_step: int = 0  # unquantized before this step, then k-means codebooks; 0: codebooks start at N(0, 1)
    restart_below: float = 0.0  # a code whose EMA count falls under this share of the mean restarts; 0: never
    dropout: float = 0.0  # share of training crops decoded from a random number of leading codebooks

    def __post_init__(self) -> None:
        _require(1 <= self.codebooks <= 255, "quantizer.codebooks must be 1 to 255")
        _require(2 <= self.codebook_size <= 65536, "quantizer.codebook_size must be 2 to 65536")
        _require(self.dim > 0, "quantizer.dim must be positive")
        _require(0 <= self.decay < 1, "quantizer.decay must be in [0, 1)")
        _require(0 <= self.restart_below < 1, "quantizer.restart_below must be in [0, 1)")
        _require(0 <= self.dropout <= 1, "quantizer.dropout must be in [0, 1]")
        _require(self.kmeans_start_step >= 0, "quantizer.kmeans_start_step must not be negative")

    @property
    def bits_per_code(self) -> int:
        return (self.codebook_size - 1).bit_length()


@dataclass(frozen=True)
class ModelConfig:
    """A pairing: an encoder with its projector and quantizer, and a decoder that takes the quantizer's codes."""

    name: str
    sample_rate_hz: int = 48000
    encoder: ConvEncoder | SpectralEncoder = ConvEncoder()
    quantizer: Quantizer = Quantizer()
    decoder: ConvDecoder | SpectralDecoder = ConvDecoder()
    projector_bias: bool = False
    licence: str = "Apache-2.0"
    source: str = ""

    def __post_init__(self) -> None:
        _require(bool(self.name), "name must not be empty")
        _require(self.sample_rate_hz > 0, "sample_rate_hz must be positive")
        _require(
            self.encoder.hop_samples == self.decoder.hop_samples,
            f"encoder and decoder must have one hop: {self.encoder.hop_samples} and {self.decoder.hop_samples} samples",
        )
        _require(
            self.encoder.in_channels == self.decoder.out_channels,
            f"encoder.in_channels ({self.encoder.in_channels}) and decoder.out_channels "
            f"({self.decoder.out_channels}) must agree",
        )
        _require(self.encoder.causal == self.decoder.causal, "encoder.causal and decoder.causal must agree")

    @property
    def hop_samples(self) -> int:
        return self.encoder.hop_samples

    @property
    def audio_channels(self) -> int:
        return self.encoder.in_channels

    @property
    def frame_rate_hz(self) -> float:
        return self.sample_rate_hz / self.hop_samples

    @property
    def delay_samples(self) -> int:
        """Constant lag of decode(encode(x)) behind x that the structure brings."""
        return self.decoder.delay_samples

    @property
    def bitrate_bps(self) -> float:
        return self.frame_rate_hz * self.quantizer.codebooks * self.quantizer.bits_per_code


# ------------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class Mel:
    """Log-mel distances over several STFT resolutions (AudioDec's mel loss; own models use `density`)."""

    fft_sizes: tuple[int, ...] = (2048,)
    hop_samples: tuple[int, ...] = (300,)
    win_lengths: tuple[int, ...] = (2048,)
    bands: tuple[int, ...] = (80,)
    fmin_hz: float = 0.0
    fmax_hz: float | None = None  # half the sample rate
    log_base: float | None = None  # None: natural
    density: bool = False  # amplitude over the window's norm, unit-sum filters, ln(mel + 1e-5): levels comparable

    def __post_init__(self) -> None:
        lengths = {len(self.fft_sizes), len(self.hop_samples), len(self.win_lengths), len(self.bands)}
        _require(len(lengths) == 1, "mel: fft_sizes, hop_samples, win_lengths and bands need one entry a resolution")


@dataclass(frozen=True)
class Stft:
    """Spectral convergence and log-magnitude distances over several STFT resolutions."""

    fft_sizes: tuple[int, ...] = (1024, 2048, 512)
    hop_samples: tuple[int, ...] = (120, 240, 50)
    win_lengths: tuple[int, ...] = (600, 1200, 240)

    def __post_init__(self) -> None:
        lengths = {len(self.fft_sizes), len(self.hop_samples), len(self.win_lengths)}
        _require(len(lengths) == 1, "stft: fft_sizes, hop_samples and win_lengths need one entry a resolution")


@dataclass(frozen=True)
class Losses:
    """Weights of the metric losses (0: left out) and their settings."""

    mel: Mel = Mel()
    mel_weight: float = 45.0
    stft: Stft = Stft()
    stft_weight: float = 0.0
    shape_windows: tuple[int, ...] = (300,)
    shape_weight: float = 0.0
    vq_weight: float = 1.0
    complex_weight: float = 0.0  # compressed complex STFT
    complex_below_hz: float | None = None
    error_weight: float = 0.0  # noise-to-signal ratio in dB, per crop


@dataclass(frozen=True)
class Optimizer:
    """Adam with a learning-rate schedule that advances once an update."""

    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.5, 0.9)
    epsilon: float = 1e-8
    schedule: Literal["constant", "cosine", "steps"] = "constant"
    warmup_steps: int = 0
    final_share: float = 0.0  # cosine: the learning rate ends at this share
    milestones: tuple[int, ...] = ()  # steps: the rate is multiplied by `gamma` at each
    gamma: float = 0.5
    clip_norm: float = 0.0  # 0: no clipping


@dataclass(frozen=True)
class Data:
    """Where crops come from and what they look like."""

    train: tuple[str, ...] = ()  # folders, audio files or lists of files (.txt)
    validation: tuple[str, ...] = ()
    batch_size: int = 16  # over all devices and hosts
    crop_samples: int = 9600
    context_samples: int = 0  # real samples before the crop: fed to the model, left out of every loss and statistic
    gain_db: tuple[float, float] = (0.0, 0.0)  # uniform random gain

    def __post_init__(self) -> None:
        _require(
            self.batch_size > 0 and self.crop_samples > 0, "data.batch_size and data.crop_samples must be positive"
        )
        _require(self.context_samples >= 0, "data.context_samples must not be negative")


@dataclass(frozen=True)
class TrainConfig:
    """A whole training run."""

    model: ModelConfig
    data: Data = Data()
    losses: Losses = Losses()
    optimizer: Optimizer = Optimizer()
    steps: int = 200_000
    seed: int = 0
    init_from: str = ""  # model folder whose weights the run starts from
    parallel: Literal["auto", "jit", "pmap", "shard_map"] = "auto"  # auto: jit for one device, pmap for several
    log_every: int = 100
    evaluate_every: int = 1000
    save_every: int = 1000
    keep_every: int = 100_000

    def __post_init__(self) -> None:
        hop = self.model.hop_samples
        _require(self.data.crop_samples % hop == 0, f"data.crop_samples must be a whole number of hops ({hop} samples)")
        _require(
            self.data.context_samples % hop == 0, f"data.context_samples must be a whole number of hops ({hop} samples)"
        )
        _require(self.steps > self.optimizer.warmup_steps, "steps must be more than optimizer.warmup_steps")
        _require(min(self.log_every, self.evaluate_every, self.save_every) > 0, "intervals must be positive")
