"""Configurations of training runs: losses, optimizers, data, schedule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from adjax.config.discriminators import Discriminators
from adjax.config.model import ModelConfig
from adjax.strict_json import require

PARTS = ("encoder", "projector", "quantizer", "decoder")
Part = Literal["encoder", "projector", "quantizer", "decoder"]
Alarm = Literal["divergence", "gradient", "discriminators", "codebooks"]  # see adjax/train/guards.py


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
        require(len(lengths) == 1, "mel: fft_sizes, hop_samples, win_lengths and bands need one entry a resolution")


@dataclass(frozen=True)
class Stft:
    """Spectral convergence and log-magnitude distances over several STFT resolutions."""

    fft_sizes: tuple[int, ...] = (1024, 2048, 512)
    hop_samples: tuple[int, ...] = (120, 240, 50)
    win_lengths: tuple[int, ...] = (600, 1200, 240)

    def __post_init__(self) -> None:
        lengths = {len(self.fft_sizes), len(self.hop_samples), len(self.win_lengths)}
        require(len(lengths) == 1, "stft: fft_sizes, hop_samples and win_lengths need one entry a resolution")


@dataclass(frozen=True)
class Spectral:
    """SoundStream's multi-scale spectral reconstruction loss (equations 4 and 5): mel spectra at window lengths s."""

    win_lengths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    bands: int = 64

    def __post_init__(self) -> None:
        require(
            bool(self.win_lengths) and all(w > 0 and w % 4 == 0 for w in self.win_lengths),
            "spectral.win_lengths must be multiples of 4",
        )


@dataclass(frozen=True)
class Losses:
    """Weights of the metric losses (0: left out) and their settings."""

    mel: Mel = Mel()
    mel_weight: float = 45.0
    stft: Stft = Stft()
    stft_weight: float = 0.0
    shape_windows: tuple[int, ...] = (300,)
    shape_weight: float = 0.0
    spectral: Spectral = Spectral()
    spectral_weight: float = 0.0
    vq_weight: float = 1.0
    complex_weight: float = 0.0  # compressed complex STFT
    complex_below_hz: float | None = None
    magnitude_weight: float = 0.0  # log-magnitude STFT
    magnitude_above_hz: float = 0.0
    magnitude_start_step: int = 0  # it enters the loss from this step on
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
    damping: float = 0.0  # weights whose gradients' RMS is larger move less, in inverse proportion; 0: all move alike

    def __post_init__(self) -> None:
        require(self.damping >= 0, "optimizer.damping must not be negative")


@dataclass(frozen=True)
class Adversarial:
    """Discriminators, their losses and their optimizer, and what the generator trains against them."""

    start_step: int = 0  # discriminators are trained, and enter the generator's loss, from this step on
    discriminators: Discriminators = field(default_factory=Discriminators)
    optimizer: Optimizer = Optimizer(
        learning_rate=2e-4, schedule="steps", milestones=(200_000, 400_000, 600_000, 800_000)
    )
    trained: tuple[Part, ...] = PARTS  # the parts of the generator trained from `start_step` on
    loss: Literal["mse", "hinge"] = "mse"
    weight: float = 1.0  # of adversarial and feature-matching loss together
    feature_weight: float = 2.0  # of the feature-matching loss within
    average_by_discriminators: bool = False  # adversarial losses, the generator's and the discriminators'
    feature_average_by_layers: bool = False
    feature_average_by_discriminators: bool = False
    feature_final_outputs: bool = False  # the scores too are matched

    def __post_init__(self) -> None:
        require(self.start_step >= 0, "adversarial.start_step must not be negative")
        require(bool(self.trained), "adversarial.trained must name a part")


@dataclass(frozen=True)
class Augmentation:
    """Random microphones and rooms in training crops: what is heard and what is to be given change alike."""

    share: float = 1.0  # of the crops that are changed
    equalizer_db: float = 0.0  # bound, up and down, of a random smooth frequency response; 0: flat
    equalizer_points: int = 8  # where it is drawn, evenly spaced in mel from 0 to half the sample rate
    low_pass_hz: tuple[float, float] | None = None  # cut-off, uniform in log frequency
    low_pass_share: float = 1.0  # of the changed crops: the others keep their highest band
    high_pass_hz: tuple[float, float] | None = None  # cut-off, likewise
    poles: int = 4  # of these Butterworth filters, 6 dB an octave each; many: the band of a lower sample rate
    noise: tuple[str, ...] = ()  # background: folders, audio files, lists or prepared sets
    noise_snr_db: tuple[float, float] = (15.0, 40.0)  # uniform
    speeds: tuple[float, ...] = (1.0,)  # one for each crop, whatever `share`: other pitches, other voices
    noise_floor_db: float | None = None  # dBFS of white noise under each crop, whatever `share`: no digital silence

    def __post_init__(self) -> None:
        where = "data.augmentation"
        for name, share in (("share", self.share), ("low_pass_share", self.low_pass_share)):
            require(0 <= share <= 1, f"{where}.{name} must be between 0 and 1")
        require(0 <= self.equalizer_db <= 24, f"{where}.equalizer_db must be between 0 and 24")
        require(2 <= self.equalizer_points <= 10, f"{where}.equalizer_points must be between 2 and 10")
        for name, limits in (("low_pass_hz", self.low_pass_hz), ("high_pass_hz", self.high_pass_hz)):
            require(limits is None or 0 < limits[0] <= limits[1], f"{where}.{name} must be positive and ascending")
        require(1 <= self.poles <= 100, f"{where}.poles must be between 1 and 100")
        require(self.noise_snr_db[0] <= self.noise_snr_db[1], f"{where}.noise_snr_db must be ascending")
        floor = self.noise_floor_db
        require(floor is None or -200 <= floor <= 0, f"{where}.noise_floor_db must be null or between -200 and 0")
        speeds = all(0.5 <= speed <= 2 for speed in self.speeds)
        require(bool(self.speeds) and speeds, f"{where}.speeds must be one or more, each between 0.5 and 2")

    @property
    def filters(self) -> bool:
        """Whether crops are filtered at all."""
        return self.equalizer_db > 0 or self.low_pass_hz is not None or self.high_pass_hz is not None


@dataclass(frozen=True)
class Data:
    """Where crops come from and what they look like."""

    train: tuple[str, ...] = ()  # folders, audio files, lists of files (.txt), or prepared sets as DIR:SPLIT
    validation: tuple[str, ...] = ()
    batch_size: int = 16  # over all devices and hosts
    crop_samples: int = 9600
    context_samples: int = 0  # real samples before the crop: fed to the model, left out of every loss and statistic
    gain_db: tuple[float, float] = (0.0, 0.0)  # uniform random gain
    noisy: tuple[str, ...] = ()  # folders paired with `train`: the model hears these files, the losses see those
    noisy_validation: tuple[str, ...] = ()  # likewise with `validation`, else clean or with `noise`
    noise: tuple[str, ...] = ()  # or noise that is mixed into what the model hears
    snr_db: tuple[float, float] = (0.0, 20.0)  # of that mixture, uniform
    augmentation: Augmentation = Augmentation()  # off
    in_memory: bool = False  # training audio and noise are read once, at the start; crops are the same

    def __post_init__(self) -> None:
        require(self.batch_size > 0 and self.crop_samples > 0, "data.batch_size and data.crop_samples must be positive")
        require(self.context_samples >= 0, "data.context_samples must not be negative")
        require(not (self.noisy and self.noise), "data.noisy and data.noise exclude each other")


@dataclass(frozen=True)
class TrainConfig:
    """A whole training run."""

    model: ModelConfig
    data: Data = Data()
    losses: Losses = Losses()
    optimizer: Optimizer = Optimizer()
    trained: tuple[Part, ...] = PARTS  # the parts trained before the adversarial start
    generator_start_step: int = 0  # the generator is left as it is before this step
    adversarial: Adversarial | None = None  # None: metric losses only
    steps: int = 200_000
    seed: int = 0
    init_from: str = ""  # model folder; parts of the model that are configured as there start from its weights
    statistics: str = ""  # file of the latents' mean and deviation for a vocoder, as `adjax statistics` writes it
    parallel: Literal["auto", "jit", "pmap", "shard_map"] = "auto"  # auto: jit for one device, pmap for several
    precision: Literal["float32", "bfloat16"] = "float32"  # of convolutions; all else is float32
    accumulate: int = 1  # micro-batches that a device goes through in a step, one after another
    remat: bool = False  # compute activations of blocks again in the backward pass: less memory, more time
    stop_on: tuple[Alarm, ...] = ()  # what stops the run instead of a warning (not finite: always)
    log_every: int = 100
    evaluate_every: int = 1000
    save_every: int = 1000
    keep_every: int = 100_000

    def __post_init__(self) -> None:
        hop = self.model.hop_samples
        require(self.data.crop_samples % hop == 0, f"data.crop_samples must be a whole number of hops ({hop} samples)")
        require(
            self.data.context_samples % hop == 0, f"data.context_samples must be a whole number of hops ({hop} samples)"
        )
        delay = self.model.delay_samples
        require(
            self.data.crop_samples > delay, f"data.crop_samples must be more than the decoder's delay ({delay} samples)"
        )
        require(
            0 <= self.losses.magnitude_above_hz < self.model.sample_rate_hz / 2,
            f"losses.magnitude_above_hz must be 0 to half the sample rate ({self.model.sample_rate_hz / 2:g} Hz)",
        )
        require(self.losses.magnitude_start_step >= 0, "losses.magnitude_start_step must not be negative")
        require(self.steps > self.optimizer.warmup_steps, "steps must be more than optimizer.warmup_steps")
        require(bool(self.trained), "trained must name a part")
        require(self.generator_start_step >= 0, "generator_start_step must not be negative")
        require(min(self.log_every, self.evaluate_every, self.save_every) > 0, "intervals must be positive")
        require(
            self.accumulate > 0 and self.data.batch_size % self.accumulate == 0,
            f"data.batch_size ({self.data.batch_size}) must be a multiple of accumulate ({self.accumulate})",
        )
