"""symAD at 24 kHz, 6.4 kbps: 500,000 metric steps, then 500,000 adversarial ones.

Command: adjax train configs/symad24.py --set 'data.train=["libritts/train"]' --set 'data.validation=["libritts/dev"]'
Time: as symad48 a step. Result as published: see README, "Models".
"""

from dataclasses import replace

from symad48 import config as symad48

from adjax import zoo
from adjax.config import Adversarial

config = replace(
    symad48, model=zoo.symad24, adversarial=Adversarial(start_step=500_000, trained=("decoder",)), steps=1_000_000
)
