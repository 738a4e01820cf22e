"""AD v2 at 48 kHz, 12.8 kbps: v1 with kernel 3, at under a third of its cost, on symAD's encoder and codebooks.

Command: adjax train configs/symad48_v2.py, with the options of symad48_v1.
Time: half of v1's. Result as published: see README, "Models".
"""

from dataclasses import replace

from symad48_v1 import config as symad48_v1

from adjax import zoo

config = replace(symad48_v1, model=zoo.symad48_v2)
