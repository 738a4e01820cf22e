"""Configurations of discriminators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adjax.strict_json import require

Norm = Literal["none", "weight", "spectral"]


@dataclass(frozen=True)
class MultiScale:
    """Waveform discriminators on the signal and on it average-pooled (MelGAN; HiFi-GAN, section 2.3)."""

    scales: int = 3
    channels: int = 128
    max_channels: int = 1024
    max_groups: int = 16
    kernel_sizes: tuple[int, int, int, int] = (15, 41, 5, 3)  # first, strided and grouped, last but one, last
    strides: tuple[int, ...] = (4, 4, 4, 4, 1)
    slope: float = 0.1
    norm: Norm = "none"  # the released program names norms here, but applies none

    def __post_init__(self) -> None:
        require(
            min(self.scales, self.channels, self.max_channels, self.max_groups, *self.kernel_sizes, *self.strides) > 0,
            "multi-scale discriminator sizes must be positive",
        )
        require(all(k % 2 for k in self.kernel_sizes), "multi-scale discriminator kernel_sizes must be odd")
        most = max(4, self.max_groups)
        require(
            self.channels % 4 == 0 and self.max_channels % most == 0 and (2 * self.channels) % most == 0,
            f"multi-scale discriminator: channels ({self.channels}) must be divisible by 4, and twice them and "
            f"max_channels ({self.max_channels}) by {most} groups",
        )


@dataclass(frozen=True)
class MultiPeriod:
    """Discriminators on every p-th sample, for several periods p (HiFi-GAN, section 2.3)."""

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    channels: int = 32
    max_channels: int = 1024
    kernel_sizes: tuple[int, int] = (5, 3)  # of the strided convolutions; the last convolution's is one less
    strides: tuple[int, ...] = (3, 3, 3, 3, 1)
    slope: float = 0.1
    norm: Norm = "weight"

    def __post_init__(self) -> None:
        require(
            min(self.channels, self.max_channels, *self.periods, *self.kernel_sizes, *self.strides) > 0,
            "multi-period discriminator sizes must be positive",
        )


@dataclass(frozen=True)
class MultiResolution:
    """Discriminators on magnitude spectrograms of several resolutions (UnivNet, section 2.2; the "Univ" models)."""

    fft_sizes: tuple[int, ...] = (1024, 2048, 512)
    hop_samples: tuple[int, ...] = (120, 240, 50)
    win_lengths: tuple[int, ...] = (600, 1200, 240)
    channels: int = 32
    kernel_sizes: tuple[tuple[int, int], ...] = ((3, 9), (3, 9), (3, 9), (3, 9), (3, 3), (3, 3))  # frames, bins
    strides: tuple[tuple[int, int], ...] = ((1, 1), (1, 2), (1, 2), (1, 2), (1, 1), (1, 1))
    slope: float = 0.2
    norm: Norm = "weight"
    exponent: float = 1.0  # of amplitudes; below 1, weak bands count for more

    def __post_init__(self) -> None:
        lengths = {len(self.fft_sizes), len(self.hop_samples), len(self.win_lengths)}
        require(
            len(lengths) == 1 and bool(self.fft_sizes),
            "spectral discriminator: fft_sizes, hop_samples and win_lengths need one entry a resolution",
        )
        require(
            len(self.kernel_sizes) == len(self.strides) > 1,
            "spectral discriminator: kernel_sizes and strides must have one entry a layer",
        )
        require(0 < self.exponent <= 1, "spectral discriminator: exponent must be over 0 and at most 1")
        sizes = (self.channels, *self.fft_sizes, *self.hop_samples, *self.win_lengths)
        pairs = (n for pair in (*self.kernel_sizes, *self.strides) for n in pair)
        require(min(*sizes, *pairs) > 0, "spectral discriminator sizes must be positive")


@dataclass(frozen=True)
class ComplexStft:
    """SoundStream's discriminator on real and imaginary parts of one spectrogram (section III-D, figure 4)."""

    fft_size: int = 1024
    hop_samples: int = 256
    channels: int = 32
    multipliers: tuple[int, ...] = (2, 4, 4, 8, 8, 16)  # width of each residual unit in `channels`
    strides: tuple[tuple[int, int], ...] = ((1, 2), (2, 2), (1, 2), (2, 2), (1, 2), (2, 2))  # frames, bins
    norm: Norm = "weight"

    def __post_init__(self) -> None:
        require(
            0 < len(self.multipliers) == len(self.strides),
            "STFT discriminator: multipliers and strides must have one entry a residual unit",
        )
        sizes = (self.fft_size, self.hop_samples, self.channels, *self.multipliers)
        require(min(*sizes, *(n for s in self.strides for n in s)) > 0, "STFT discriminator sizes must be positive")


@dataclass(frozen=True)
class Discriminators:
    """The discriminators of a run, in the order of their outputs; None: left out."""

    scale: MultiScale | None = MultiScale()
    resolution: MultiResolution | None = None
    stft: ComplexStft | None = None
    period: MultiPeriod | None = MultiPeriod()

    def __post_init__(self) -> None:
        require(any((self.scale, self.resolution, self.stft, self.period)), "discriminators must not all be left out")
