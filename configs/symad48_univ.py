"""symAD Univ at 48 kHz, 12.8 kbps: spectral and period discriminators in place of scale and period ones.

Command: adjax train configs/symad48_univ.py --set 'data.train=["vctk/train"]' --set 'data.validation=["vctk/valid"]'
Time and result: close to symad48's.
"""

from dataclasses import replace

from symad48 import config as symad48

from adjax import zoo
from adjax.config import Adversarial, Discriminators, MultiResolution

UNIV = Discriminators(scale=None, resolution=MultiResolution())

config = replace(
    symad48,
    model=zoo.symad48_univ,
    adversarial=Adversarial(start_step=200_000, trained=("decoder",), discriminators=UNIV),
)
