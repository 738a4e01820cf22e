"""AD v1 at 48 kHz and 12.8 kbps on symAD's transform start: written from its decoder, then trained as that is.

Command: python scripts/transform_vocoder.py runs/start_v1 --vocoder v1
then: adjax train configs/symad48_transform_v1.py --set init_from=runs/start_v1, with symad48_transform's data
Time: 28 minutes on one CPU core. Result: docs/experiments.md, "symAD as a transform coder".
"""

from dataclasses import replace

from symad48_transform_v2 import config as symad48_transform_v2

from adjax.config import Vocoder

_model = symad48_transform_v2.model
assert isinstance(_model.decoder, Vocoder)

config = replace(
    symad48_transform_v2,
    model=replace(_model, name="symad48-transform-v1", decoder=replace(_model.decoder, block_kernels=(11,))),
    steps=300,
)
