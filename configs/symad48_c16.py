"""symAD with 16 codebooks and hop 320 at 48 kHz, 24 kbps.

Command: adjax train configs/symad48_c16.py --set 'data.train=["vctk/train"]' --set 'data.validation=["vctk/valid"]'
Time and result: symad48's, at twice the bitrate.
"""

from dataclasses import replace

from symad48 import config as symad48

from adjax import zoo

config = replace(symad48, model=zoo.symad48_c16)
