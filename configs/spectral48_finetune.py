"""Second and third stage of the default model: log-magnitude losses, from the weights of the stage before.

Command: adjax train configs/spectral48_finetune.py --set init_from=runs/spectral48/model --set 'data.train=["speech"]'
Time: 26 minutes on one CPU core. Result on unseen speakers, with gain_bands=0: PESQ-WB 2.10, STOI 0.87; after a third
stage with gains, --set optimizer.learning_rate=7e-4 --set steps=16500, 44 minutes: PESQ-WB 2.25, STOI 0.88.
"""

from dataclasses import replace

from spectral48 import config as first

from adjax.config import Optimizer, Stft

config = replace(
    first,
    model=replace(first.model, quantizer=replace(first.model.quantizer, kmeans_start_step=0)),
    losses=replace(first.losses, stft=Stft((2048, 1024, 512), (512, 256, 128), (2048, 1024, 512)), stft_weight=0.3),
    optimizer=Optimizer(learning_rate=4e-4, betas=(0.8, 0.99), schedule="cosine", warmup_steps=100),
    steps=7_500,
)
