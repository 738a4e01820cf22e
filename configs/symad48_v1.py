"""AD v1 at 48 kHz, 12.8 kbps: the multi-group vocoder on symAD's frozen encoder and codebooks.

Command: adjax statistics runs/symad48/model vctk/train --output stats.npy, then
adjax train configs/symad48_v1.py --set init_from=runs/symad48/model --set statistics=stats.npy
--set 'data.train=["vctk/train"]' --set 'data.validation=["vctk/valid"]'
Time: some three times symAD's adversarial step. Result as published: see README, "Models".
"""

from adjax import zoo
from adjax.config import Adversarial, Losses, TrainConfig

ADVERSARIAL = Adversarial(start_step=1, trained=("decoder",))

config = TrainConfig(
    model=zoo.symad48_v1,
    losses=Losses(vq_weight=0.0),  # the quantizer is frozen, and the published run logs no such term
    optimizer=ADVERSARIAL.optimizer,
    trained=("decoder",),
    generator_start_step=2,
    adversarial=ADVERSARIAL,
    steps=500_000,
)
