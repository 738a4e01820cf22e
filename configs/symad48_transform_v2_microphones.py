"""Later stage of AD v2 on symAD's transform start: its vocoder behind the equalizer that symAD's decoder had.

Command: adjax train configs/symad48_transform_v2_microphones.py --set init_from=checkpoints/symad48-trained-v2
with symad48_transform's data
Time: 75 minutes on one CPU core. Result: docs/experiments.md, "symAD as a transform coder".
"""

from dataclasses import replace

from symad48_transform import config as symad48_transform
from symad48_transform_v2 import config as symad48_transform_v2

config = replace(symad48_transform_v2, data=symad48_transform.data, steps=2500, evaluate_every=250, save_every=250)
