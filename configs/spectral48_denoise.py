"""Denoising encoder of the default model: noise mixed in at 0 to 20 dB; codebooks and decoder frozen.

Command: adjax train configs/spectral48_denoise.py --set init_from=spectral48
--set 'data.train=["speech"]' --set 'data.noise=["noise"]'
Time: 9 minutes on one CPU core. Result on unseen speakers and noises: docs/quality.md, "Noisy speech".
"""

from dataclasses import replace

from spectral48_finetune import config as finetune

from adjax import zoo

config = replace(finetune, model=zoo.spectral48_denoise, trained=("encoder", "projector"), steps=3_500)
