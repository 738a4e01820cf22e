"""AD v1 at 48 kHz and 12.8 kbps on symAD's transform start: written from its decoder, then trained as that is.

Command: python scripts/transform_vocoder.py runs/start_v1 --vocoder v1
then: adjax train configs/symad48_transform_v1.py --set init_from=runs/start_v1, with symad48_transform's data
Time: 28 minutes on one CPU core. Result: docs/training.md, "symAD as a transform coder".
"""

from dataclasses import replace

from symad48_transform import config as symad48_transform

from adjax import zoo
from adjax.config import Vocoder

assert isinstance(zoo.symad48_v1.decoder, Vocoder)
_model = symad48_transform.model

config = replace(
    symad48_transform,
    model=replace(
        _model,
        name="symad48-transform-v1",
        decoder=replace(
            zoo.symad48_v1.decoder, statistics=False, weight_norm=False, delay_samples=_model.delay_samples
        ),
    ),
    optimizer=replace(symad48_transform.optimizer, learning_rate=1e-4),
)
