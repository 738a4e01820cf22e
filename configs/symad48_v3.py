"""AD v3 at 48 kHz, 12.8 kbps: v1 on symAD Univ, trained against spectral and period discriminators.

Command: adjax train configs/symad48_v3.py, with the options of symad48_v1, with symad48_univ's model folder.
Time and result: v1's.
"""

from dataclasses import replace

from symad48_univ import UNIV
from symad48_v1 import ADVERSARIAL
from symad48_v1 import config as symad48_v1

from adjax import zoo

config = replace(symad48_v1, model=zoo.symad48_v3, adversarial=replace(ADVERSARIAL, discriminators=UNIV))
