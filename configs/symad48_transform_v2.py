"""AD v2 at 48 kHz and 12.8 kbps on symAD's transform start: v1 with kernel 3, at under a third of its cost.

Command: python scripts/transform_vocoder.py runs/start_v2
then: adjax train configs/symad48_transform_v2.py --set init_from=runs/start_v2, with symad48_transform's data
then, twice: the same with --set init_from=runs/symad48_transform_v2/model --set steps=3000 and another --run-dir;
then symad48_transform_v2_microphones.py
Time: 97, 120 and 111 minutes on one CPU core. Result: docs/experiments.md, "symAD as a transform coder".
"""

from dataclasses import replace

from spectral48 import config as spectral48
from symad48_transform import config as symad48_transform

from adjax import zoo

config = replace(
    symad48_transform,
    model=replace(zoo.symad48_trained_v2, name="symad48-transform-v2", source=zoo.symad48_transform.source),
    # The equalizer comes in the last stage.
    data=replace(symad48_transform.data, augmentation=replace(spectral48.data.augmentation, speeds=(1.0,))),
    steps=2400,
    evaluate_every=100,
    save_every=100,
)
