"""AD v0 at 48 kHz, 12.8 kbps: HiFi-GAN's multi-receptive-field vocoder on symAD's encoder and codebooks.

Command: adjax train configs/symad48_v0.py, with the options of symad48_v1.
Time: two thirds of v1's. Result as published: see README, "Models".
"""

from dataclasses import replace

from symad48_v1 import config as symad48_v1

from adjax import zoo

config = replace(symad48_v1, model=zoo.symad48_v0)
