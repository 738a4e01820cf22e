"""AD v2 in small: a quarter of v2's channels, on symAD in small; the second half of `scripts/pipeline`.

Command: adjax train configs/symad48_small_v2.py --set init_from=runs/symad48_small/model --set statistics=stats.npy
Time: 13 minutes on two CPU cores. Result: STOI 0.59, PESQ-WB 1.05 (docs/training.md).
"""

from dataclasses import replace

from symad48_small import config as symad48_small
from symad48_v2 import config as symad48_v2

from adjax.config import Optimizer, Vocoder

_v2 = symad48_v2.model.decoder
assert isinstance(_v2, Vocoder)
assert symad48_v2.adversarial
assert symad48_small.adversarial

config = replace(
    symad48_v2,
    model=replace(
        symad48_small.model,
        name="symad48-small-v2",
        decoder=replace(_v2, channels=128),
        source="AD v2 in small, trained by adjax",
    ),
    data=symad48_small.data,
    optimizer=Optimizer(learning_rate=5e-4),
    adversarial=replace(symad48_v2.adversarial, discriminators=symad48_small.adversarial.discriminators),
    steps=800,
    log_every=50,
    evaluate_every=400,
    save_every=400,
    keep_every=800,
)
