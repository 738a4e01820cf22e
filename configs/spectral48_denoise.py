"""Denoising encoder of the default model: noise mixed in at 0 to 20 dB; codebooks and decoder frozen.

Command: adjax train configs/spectral48_denoise.py --set init_from=spectral48
--set 'data.train=["speech"]' --set 'data.noise=["noise"]'
Time: 10 minutes on one CPU core. Result on unseen speakers and noises: docs/quality.md, "Noisy speech".
"""

from dataclasses import replace

from spectral48 import config as spectral48

from adjax import zoo
from adjax.config import Optimizer

config = replace(
    spectral48,
    model=zoo.spectral48_denoise,
    losses=replace(spectral48.losses, magnitude_start_step=0),
    trained=("encoder", "projector"),
    optimizer=Optimizer(learning_rate=4e-4, betas=(0.8, 0.99), schedule="cosine", warmup_steps=100),
    steps=3_500,
)
