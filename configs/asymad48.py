"""asymAD of the published comparison: symAD's encoder with v1's decoder, trained as one autoencoder.

The authors published no more than its name: the decoder and the schedule (symad48's) are adjax's reading of it.
Command: adjax train configs/asymad48.py --set 'data.train=["vctk/train"]' --set 'data.validation=["vctk/valid"]'
Time: some three times symad48's a step. Result: none is published, and none was trained here yet.
"""

from dataclasses import replace

from symad48 import config as symad48

from adjax import zoo

config = replace(symad48, model=zoo.asymad48)
