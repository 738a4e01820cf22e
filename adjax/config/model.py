"""Configurations of models: encoders, quantizer, decoders, and their pairing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from adjax.strict_json import require


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
        require(len(self.ratios) == len(self.strides), "encoder.ratios and encoder.strides must have one entry a block")
        require(min(self.channels, self.in_channels, *self.ratios, *self.strides) > 0, "encoder sizes must be positive")
        require(self.causal or not self.aligned, "encoder.aligned is an alignment of causal convolutions")

    @property
    def hop_samples(self) -> int:
        return math.prod(self.strides)

    @property
    def lookahead_samples(self) -> int:
        """Samples of a frame's hop after the first that the frame sees."""
        return self.hop_samples - 1 if self.aligned else 0


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
    delay_samples: int = 0  # how late the output is meant to be: what training compares it with, and decoding cuts off

    def __post_init__(self) -> None:
        require(len(self.ratios) == len(self.strides), "decoder.ratios and decoder.strides must have one entry a block")
        require(
            min(self.channels, self.out_channels, *self.ratios, *self.strides) > 0, "decoder sizes must be positive"
        )
        require(self.delay_samples >= 0, "decoder.delay_samples must not be negative")

    @property
    def hop_samples(self) -> int:
        return math.prod(self.strides)


@dataclass(frozen=True)
class SpectralEncoder:
    """adjax's own encoder: MDCT and MDST frames, whitened, then causal residual units at the frame rate."""

    hop_samples: int = 300
    channels: int = 224
    dilations: tuple[int, ...] = (1, 3, 1, 3)
    in_channels: int = 1
    gain_bands: int = 20  # points in frequency, evenly spaced in mel, at which the level is taken out of the bins
    noise_floor_db: float | None = None  # dBFS of the white noise that levels are taken over: what silence looks like

    @property
    def causal(self) -> bool:
        return True

    @property
    def lookahead_samples(self) -> int:
        return self.hop_samples - 1

    def __post_init__(self) -> None:
        require(self.hop_samples > 0 and self.hop_samples % 2 == 0, "encoder.hop_samples must be positive and even")
        require(min(self.channels, *self.dilations) > 0, "encoder sizes must be positive")
        require(self.gain_bands >= 2, "encoder.gain_bands must be at least 2")
        floor = self.noise_floor_db
        require(floor is None or -200 <= floor <= 0, "encoder.noise_floor_db must be null or between -200 and 0")
        require(self.in_channels == 1, "encoder.in_channels must be 1: channels are coded as streams of their own")


@dataclass(frozen=True)
class SpectralDecoder:
    """adjax's own decoder: causal residual units at the frame rate, then whitened MDCT bins and overlap-add."""

    hop_samples: int = 300
    channels: int = 256
    dilations: tuple[int, ...] = (1, 3, 9, 1, 3, 1)
    out_channels: int = 1
    random_signs_above_hz: float = 4000.0
    gain_bands: int = 20  # points in frequency, as the encoder's, at which a gain is predicted
    noise_smoothing_bins: int = 1  # above it, magnitudes are the RMS over so many neighbouring bins

    @property
    def causal(self) -> bool:
        return True

    def __post_init__(self) -> None:
        require(self.hop_samples > 0 and self.hop_samples % 2 == 0, "decoder.hop_samples must be positive and even")
        require(min(self.channels, *self.dilations) > 0, "decoder sizes must be positive")
        require(self.gain_bands >= 2, "decoder.gain_bands must be at least 2")
        require(self.noise_smoothing_bins % 2 == 1, "decoder.noise_smoothing_bins must be odd")
        require(self.out_channels == 1, "decoder.out_channels must be 1: channels are coded as streams of their own")

    @property
    def delay_samples(self) -> int:
        return self.hop_samples


@dataclass(frozen=True)
class Vocoder:
    """AudioDec's vocoder: HiFi-GAN's generator with causal layers, each upsampling followed by a fusion block.

    Several residual blocks are averaged (v0, HiFi-GAN's multi-receptive-field fusion); one block with `groups` above 1
    is a multi-group block (v1, v2, v3): as many parallel copies, concatenated and mixed by a 1x1 convolution.
    """

    channels: int = 512
    strides: tuple[int, ...] = (5, 5, 4, 3)
    kernel_size: int = 7  # of the first and last convolutions
    block_kernels: tuple[int, ...] = (11,)  # one a residual block
    block_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5),)
    groups: int = 3
    additional_convs: bool = True  # an undilated convolution after each dilated one
    out_channels: int = 1
    bias: bool = True
    slope: float = 0.1  # of the leaky ReLUs, save the last one's, which is 0.01
    statistics: bool = True  # latents are standardised by their mean and deviation over the training set
    weight_norm: bool = True
    delay_samples: int = 0  # as a ConvDecoder's

    def __post_init__(self) -> None:
        require(
            0 < len(self.block_kernels) == len(self.block_dilations),
            "decoder.block_kernels and decoder.block_dilations must have one entry a residual block",
        )
        require(all(self.block_dilations), "decoder.block_dilations must have a dilation for every residual block")
        sizes = (self.channels, self.kernel_size, self.groups, self.out_channels, *self.strides, *self.block_kernels)
        require(min(*sizes, *(d for row in self.block_dilations for d in row)) > 0, "decoder sizes must be positive")
        require(
            self.channels % 2 ** len(self.strides) == 0,
            f"decoder.channels must be divisible by {2 ** len(self.strides)}: each of its strides halves them",
        )
        require(self.groups == 1 or len(self.block_kernels) == 1, "decoder.groups needs a single residual block")
        require(0 <= self.slope < 1, "decoder.slope must be in [0, 1)")
        require(self.delay_samples >= 0, "decoder.delay_samples must not be negative")

    @property
    def causal(self) -> bool:
        return True

    @property
    def hop_samples(self) -> int:
        return math.prod(self.strides)


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
    predicted: int = 0  # last latents of which only the change to the frame before as decoded is coded
    prediction: float = 0.75  # how much of that is expected again: the less, the sooner lost frames are forgotten
    beams: int = 1  # hypotheses that encoding keeps from stage to stage; training keeps one

    def __post_init__(self) -> None:
        require(1 <= self.codebooks <= 255, "quantizer.codebooks must be 1 to 255")
        require(2 <= self.codebook_size <= 65536, "quantizer.codebook_size must be 2 to 65536")
        require(self.dim > 0, "quantizer.dim must be positive")
        require(0 <= self.predicted <= self.dim, "quantizer.predicted must be 0 to quantizer.dim")
        require(0 <= self.prediction < 1, "quantizer.prediction must be in [0, 1)")
        require(self.commit_every_stage or not self.predicted, "quantizer.predicted needs commit_every_stage")
        require(1 <= self.beams <= 64, "quantizer.beams must be 1 to 64")
        require(0 <= self.decay < 1, "quantizer.decay must be in [0, 1)")
        require(0 <= self.restart_below < 1, "quantizer.restart_below must be in [0, 1)")
        require(0 <= self.dropout <= 1, "quantizer.dropout must be in [0, 1]")
        require(self.kmeans_start_step >= 0, "quantizer.kmeans_start_step must not be negative")

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
    decoder: ConvDecoder | SpectralDecoder | Vocoder = ConvDecoder()
    projector_bias: bool = False
    licence: str = "Apache-2.0"
    source: str = ""

    def __post_init__(self) -> None:
        require(bool(self.name), "name must not be empty")
        require(self.sample_rate_hz > 0, "sample_rate_hz must be positive")
        require(
            self.encoder.hop_samples == self.decoder.hop_samples,
            f"encoder and decoder must have one hop: {self.encoder.hop_samples} and {self.decoder.hop_samples} samples",
        )
        require(
            self.encoder.in_channels == self.decoder.out_channels,
            f"encoder.in_channels ({self.encoder.in_channels}) and decoder.out_channels "
            f"({self.decoder.out_channels}) must agree",
        )
        require(self.encoder.causal == self.decoder.causal, "encoder.causal and decoder.causal must agree")
        for part in (self.encoder, self.decoder):
            if isinstance(part, SpectralEncoder | SpectralDecoder):
                require(
                    part.gain_bands < self.quantizer.dim <= part.channels,
                    f"a spectral part's gain_bands ({part.gain_bands}) must be fewer than quantizer.dim "
                    f"({self.quantizer.dim}), and its channels ({part.channels}) no fewer",
                )

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
    def algorithmic_delay_samples(self) -> int:
        """Samples after a given one that its part of the output waits for: the encoder's look-ahead and the delay."""
        return self.encoder.lookahead_samples + self.delay_samples

    @property
    def bitrate_bps(self) -> float:
        return self.frame_rate_hz * self.quantizer.codebooks * self.quantizer.bits_per_code
