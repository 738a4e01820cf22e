"""symAD in small, at 48 kHz and 12.8 kbps: the first half of a whole pipeline that a CPU trains in an hour or so.

Layers and procedure are symAD's; a quarter of its channels, small discriminators, and codebooks that start by k-means
and are kept alive, since 200,000 steps are not at hand. `scripts/pipeline` trains it and its vocoder.
Time: 30 minutes on two CPU cores. Result: STOI 0.61, PESQ-WB 1.08 (docs/training.md).
Command: adjax train configs/symad48_small.py --set 'data.train=["speech48"]' --set 'data.validation=["valid48"]'
"""

from dataclasses import replace

from adjax import zoo
from adjax.config import (
    Adversarial,
    ConvDecoder,
    ConvEncoder,
    Data,
    Discriminators,
    MultiPeriod,
    MultiScale,
    Optimizer,
    Quantizer,
    TrainConfig,
)

config = TrainConfig(
    model=replace(
        zoo.symad48,
        name="symad48-small",
        encoder=ConvEncoder(channels=8, aligned=True),
        quantizer=Quantizer(decay=0.99, kmeans_start_step=200, restart_below=0.05),
        decoder=ConvDecoder(channels=8),
        licence="Apache-2.0",
        source="symAD in small, trained by adjax",
    ),
    data=Data(batch_size=4),
    optimizer=Optimizer(learning_rate=1e-3, schedule="steps", milestones=(2400,), gamma=0.3),
    adversarial=Adversarial(
        start_step=2400,
        trained=("decoder",),
        discriminators=Discriminators(
            scale=MultiScale(channels=16, max_channels=128), period=MultiPeriod(channels=8, max_channels=128)
        ),
    ),
    steps=3600,
    log_every=50,
    evaluate_every=400,
    save_every=400,
    keep_every=800,
)
