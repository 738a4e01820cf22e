"""Last stage of AD v1 on symAD's transform start, against the same discriminators as symAD's own.

Command: adjax train configs/symad48_transform_v1_adversarial.py --set init_from=runs/symad48_transform_v1/model
with symad48_transform's data
Time: 38 minutes on one CPU core. Result: docs/experiments.md, "symAD as a transform coder".
"""

from dataclasses import replace

from symad48_transform_adversarial import config as symad48_transform_adversarial
from symad48_transform_v1 import config as symad48_transform_v1

config = replace(symad48_transform_v1, adversarial=symad48_transform_adversarial.adversarial, steps=300)
