"""Last stage of the model at 24 kHz: its decoder against discriminators of spectrograms; all before it is frozen.

Command: adjax train configs/spectral24_adversarial.py --set init_from=runs/spectral24_decoder/model
--set 'data.train=["speech24","speech48"]' --export runs/mean --average 15
then the same with --set init_from=runs/mean --export checkpoints/spectral24 --export-type int8 and another --run-dir
Time: 6 and 7 minutes on one CPU core. Result: the weights in the package (docs/experiments.md, "Many microphones").
"""

from dataclasses import replace

from spectral24_decoder import config as spectral24_decoder
from spectral48_adversarial import config as spectral48_adversarial
from spectral48_adversarial import resolutions

from adjax.config import Discriminators

assert spectral48_adversarial.adversarial is not None
halved = replace(resolutions, fft_sizes=(1024, 512, 256), hop_samples=(256, 128, 64), win_lengths=(1024, 512, 256))
config = replace(
    spectral48_adversarial,
    model=spectral24_decoder.model,
    data=replace(
        spectral24_decoder.data,
        crop_samples=8100,
        augmentation=replace(
            spectral24_decoder.data.augmentation, speeds=spectral48_adversarial.data.augmentation.speeds
        ),
    ),
    losses=spectral24_decoder.losses,
    adversarial=replace(
        spectral48_adversarial.adversarial, discriminators=Discriminators(scale=None, resolution=halved, period=None)
    ),
)
