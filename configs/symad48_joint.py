"""symAD* of the published comparison: symAD with encoder and codebooks trained on against the discriminators.

Command: adjax train configs/symad48_joint.py --set 'data.train=["vctk/train"]' --set 'data.validation=["vctk/valid"]'
Time and result: symad48's; the published objective figures are slightly worse than symAD's.
"""

from dataclasses import replace

from symad48 import config as symad48

from adjax import zoo
from adjax.config import PARTS, Adversarial

config = replace(symad48, model=zoo.symad48_joint, adversarial=Adversarial(start_step=200_000, trained=PARTS))
