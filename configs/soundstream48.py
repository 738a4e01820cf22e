"""SoundStream's training at 48 kHz, 12.8 kbps, on symAD's layers (Zeghidour et al., 2021, arXiv 2107.03312).

Everything is trained jointly from the start: wave and STFT discriminators, hinge losses, multi-scale spectral
reconstruction, quantizer dropout on every crop, k-means start, dead-code restart. Loss weights are the paper's (1 for
the adversarial, 100 for the feature and 1 for the spectral term); the paper does not give Adam's rate.
Command: adjax train configs/soundstream48.py --set 'data.train=["vctk/train"]' --set 'data.validation=["vctk/valid"]'
Time: symad48's adversarial step. Result: in the published table, of another implementation; none was trained here yet.
"""

from adjax import zoo
from adjax.config import Adversarial, ComplexStft, Discriminators, Losses, MultiScale, Optimizer, TrainConfig

_optimizer = Optimizer(learning_rate=1e-4)

config = TrainConfig(
    model=zoo.soundstream48,
    losses=Losses(mel_weight=0.0, spectral_weight=1.0),
    optimizer=_optimizer,
    adversarial=Adversarial(
        discriminators=Discriminators(MultiScale(channels=16, norm="weight"), stft=ComplexStft(), period=None),
        optimizer=_optimizer,
        loss="hinge",
        feature_weight=100.0,
        average_by_discriminators=True,
        feature_average_by_layers=True,
        feature_average_by_discriminators=True,
    ),
    steps=1_000_000,
)
