"""Last stage of AD v2 on symAD's transform start, against the same discriminators as symAD's own.

Command: adjax train configs/symad48_transform_v2_adversarial.py --set init_from=runs/symad48_transform_v2/model
with symad48_transform's data
Time: 22 minutes on one CPU core. Result: docs/experiments.md, "symAD as a transform coder".
"""

from dataclasses import replace

from symad48_transform_adversarial import config as symad48_transform_adversarial
from symad48_transform_v2 import config as symad48_transform_v2

config = replace(
    symad48_transform_v2,
    adversarial=symad48_transform_adversarial.adversarial,
    steps=symad48_transform_adversarial.steps,
)
