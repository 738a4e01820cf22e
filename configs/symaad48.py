"""symAAD at 48 kHz, 12.8 kbps: symAD with activations around its blocks and weight norm.

Command: adjax train configs/symaad48.py --set 'data.train=["vctk/train"]' --set 'data.validation=["vctk/valid"]'
Time and result: close to symad48's.
"""

from dataclasses import replace

from symad48 import config as symad48

from adjax import zoo

config = replace(symad48, model=zoo.symaad48)
