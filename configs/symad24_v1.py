"""AD v1 at 24 kHz, 6.4 kbps: the multi-group vocoder on symAD's encoder and codebooks.

Command: adjax train configs/symad24_v1.py, with the options of symad48_v1, with symad24's model folder and LibriTTS.
Time: v1's. Result as published: see README, "Models".
"""

from dataclasses import replace

from symad48_v1 import config as symad48_v1

from adjax import zoo

config = replace(symad48_v1, model=zoo.symad24_v1)
