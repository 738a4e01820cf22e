"""Last stage of the default model: its decoder against discriminators of spectrograms; all before it is frozen.

Command: adjax train configs/spectral48_adversarial.py --set init_from=runs/spectral48_decoder/model
--set 'data.train=["speech48","ljspeech"]' --export checkpoints/spectral48 --export-type int8 --average 15
Time: 9 minutes on one CPU core. Result: the weights in the package, a mean of all checkpoints (docs/experiments.md,
"Against discriminators" and "Many microphones").
"""

from dataclasses import replace

from spectral48_decoder import config as spectral48_decoder

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
    spectral48_decoder,
    # Played faster only: what is played slower has nothing in the highest band, and the decoder would learn that.
    data=replace(
        spectral48_decoder.data,
        crop_samples=11100,
        augmentation=replace(spectral48_decoder.data.augmentation, speeds=(1.0, 1.05, 1.1, 1.15, 1.2)),
    ),
    optimizer=Optimizer(learning_rate=2e-4, betas=(0.5, 0.9), schedule="cosine", final_share=0.02),
    adversarial=Adversarial(
        discriminators=Discriminators(scale=None, resolution=resolutions, period=None),
        optimizer=Optimizer(learning_rate=3e-4, betas=(0.5, 0.9)),
        trained=("decoder",),
        loss="hinge",
        weight=1.0,
        feature_weight=20.0,
        average_by_discriminators=True,
        feature_average_by_layers=True,
        feature_average_by_discriminators=True,
    ),
    steps=1_500,
    evaluate_every=1500,
    save_every=100,
    keep_every=100,
)
