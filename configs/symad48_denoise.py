"""Denoising encoder at 48 kHz, 12.8 kbps: symAD's encoder trained on noisy-clean pairs, all behind it frozen.

Command: adjax train configs/symad48_denoise.py --set init_from=runs/symad48/model
--set 'data.train=["vctk/clean"]' --set 'data.noisy=["vctk/noisy"]' (paired files), or --set 'data.noise=["noise"]'
The result's encoder goes with any decoder trained on symad48's codes, v1 as published.
Time: ten times a metric step of symad48 a step, for its crops of two seconds.
"""

from dataclasses import replace

from symad48 import config as symad48

from adjax.config import Data

config = replace(
    symad48,
    model=replace(symad48.model, name="symad48-denoise"),
    data=Data(crop_samples=96_000),
    trained=("encoder", "projector"),
    adversarial=None,
    steps=200_000,
)
