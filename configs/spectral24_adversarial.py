"""Last stage of the model at 24 kHz: its decoder against discriminators of spectrograms; all before it is frozen.

Command: adjax train configs/spectral24_adversarial.py --set init_from=runs/spectral24/model
--set 'data.train=["speech24","speech48"]' --export checkpoints/spectral24 --export-type int8 --average 15
Time: 7 minutes on one CPU core. Result: docs/experiments.md, "Against discriminators".
"""

from dataclasses import replace

from spectral24 import config as spectral24
from spectral48_adversarial import config as spectral48_adversarial
from spectral48_adversarial import resolutions

from adjax.config import Discriminators

assert spectral48_adversarial.adversarial is not None
halved = replace(resolutions, fft_sizes=(1024, 512, 256), hop_samples=(256, 128, 64), win_lengths=(1024, 512, 256))
config = replace(
    spectral48_adversarial,
    model=spectral24.model,
    data=replace(spectral24.data, crop_samples=8100),
    losses=replace(spectral24.losses, magnitude_start_step=0),
    adversarial=replace(
        spectral48_adversarial.adversarial, discriminators=Discriminators(scale=None, resolution=halved, period=None)
    ),
)
