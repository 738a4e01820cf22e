"""Last stage of the default model: its decoder against discriminators of spectrograms; all before it is frozen.

Command: adjax train configs/spectral48_adversarial.py --set init_from=runs/spectral48/model
--set 'data.train=["speech48","ljspeech"]'
Time: 8 minutes on one CPU core. Result: docs/training.md, "Against discriminators".
"""

from dataclasses import replace

from spectral48 import config as spectral48

from adjax.config import Adversarial, Discriminators, MultiResolution, Optimizer

# The first layer takes patches of 8 bins; amplitudes are compressed, or the loudest bands alone would count.
resolutions = MultiResolution(
    fft_sizes=(2048, 1024, 512),
    hop_samples=(512, 256, 128),
    win_lengths=(2048, 1024, 512),
    channels=32,
    kernel_sizes=((3, 8), (3, 3), (3, 3), (3, 3), (3, 3)),
    strides=((1, 8), (1, 2), (1, 2), (1, 1), (1, 1)),
    exponent=0.3,
)
config = replace(
    spectral48,
    # Played faster only: what is played slower has nothing in the highest band, and the decoder would learn that.
    data=replace(
        spectral48.data,
        crop_samples=11100,
        augmentation=replace(spectral48.data.augmentation, speeds=(1.0, 1.1, 1.2)),
    ),
    losses=replace(spectral48.losses, magnitude_start_step=0),
    optimizer=Optimizer(learning_rate=2e-4, betas=(0.5, 0.9), schedule="cosine", final_share=0.02),
    trained=("decoder",),
    adversarial=Adversarial(
        discriminators=Discriminators(scale=None, resolution=resolutions, period=None),
        optimizer=Optimizer(learning_rate=3e-4, betas=(0.5, 0.9)),
        trained=("decoder",),
        loss="hinge",
        weight=0.5,
        average_by_discriminators=True,
        feature_average_by_layers=True,
        feature_average_by_discriminators=True,
    ),
    steps=1_500,
)
