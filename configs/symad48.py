"""AudioDec's symmetric autoencoder at 48 kHz, 12.8 kbps, by the published recipe.

200,000 steps on metric losses, then 500,000 of the decoder alone against discriminators.
Command: adjax train configs/symad48.py --set 'data.train=["vctk/train"]' --set 'data.validation=["vctk/valid"]'
Time: on one CPU core some 6 seconds a metric step; meant for a GPU. Result as published: see README, "Models".
"""

from adjax import zoo
from adjax.config import Adversarial, Optimizer, TrainConfig

config = TrainConfig(
    model=zoo.symad48,
    optimizer=Optimizer(learning_rate=1e-4),
    adversarial=Adversarial(start_step=200_000, trained=("decoder",)),
    steps=700_000,
)
