"""Last stage of symAD on its transform start: its decoder against the default's discriminators of spectrograms.

Command: adjax train configs/symad48_transform_adversarial.py --set init_from=runs/symad48_transform/model
--set 'data.train=["speech48","ljspeech"]' --set 'data.validation=["valid48"]'
Time: 12 minutes on one CPU core. Result: docs/experiments.md, "symAD as a transform coder".
"""

from dataclasses import replace

from spectral48_adversarial import config as spectral48_adversarial
from symad48_transform import config as symad48_transform

assert spectral48_adversarial.adversarial is not None
config = replace(
    symad48_transform,
    adversarial=replace(spectral48_adversarial.adversarial, weight=0.5, feature_weight=2.0),
    steps=400,
    evaluate_every=100,
    save_every=100,
)
