"""AudioDec's symmetric autoencoder at 48 kHz, 12.8 kbps, by the published recipe: the metric-only stage.

Command: adjax train configs/symad48.py --set 'data.train=["speech48"]' --set 'data.validation=["valid48"]'
Time: some 6 seconds a step on one CPU core; the published model saw 200,000 steps of this stage, on a GPU.
"""

from adjax import zoo
from adjax.config import TrainConfig

config = TrainConfig(model=zoo.symad48)
