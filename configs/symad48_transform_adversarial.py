"""Last stage of symAD on its transform start: its decoder against the default's discriminators of spectrograms.

Command: adjax train configs/symad48_transform_adversarial.py --set init_from=runs/symad48_transform/model
--set 'data.train=["speech48","ljspeech"]' --set 'data.validation=["valid48"]'
--export checkpoints/symad48-trained --export-type sparse-int4
Time: 12 minutes on one CPU core. Result: docs/training.md, "symAD as a transform coder".
"""

from dataclasses import replace

from spectral48_adversarial import config as spectral48_adversarial
from symad48_transform import config as symad48_transform

from adjax import zoo

config = replace(
    symad48_transform, model=zoo.symad48_trained, adversarial=spectral48_adversarial.adversarial, steps=400
)
