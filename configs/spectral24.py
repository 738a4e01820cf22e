"""adjax's own frame-rate model at 24 kHz, 6.4 kbps.

Command: adjax train configs/spectral24.py --set 'data.train=["speech24","speech48"]' --set 'data.validation=["valid"]'
Time: 52 minutes on one CPU core. Result: PESQ-WB 2.39, STOI .909 on test48; the weights in the package came of three
commands and 37,726 steps (2.47, .913), then of further stages of their decoder (checkpoints/spectral24/README.md).
"""

from dataclasses import replace

from spectral48 import config as spectral48

from adjax import zoo
from adjax.config import Augmentation, Data, Mel

config = replace(
    spectral48,
    model=zoo.spectral24,
    # Without spectral48's noise floors and low-pass, which brought nothing here (docs/experiments.md).
    data=Data(
        batch_size=4,
        crop_samples=16200,
        context_samples=1800,
        gain_db=(-6.0, 3.0),
        augmentation=Augmentation(speeds=(0.9, 1.0, 1.1)),
    ),
    losses=replace(
        spectral48.losses,
        mel=Mel(
            fft_sizes=(1024, 512, 256, 128),
            hop_samples=(512, 256, 128, 64),
            win_lengths=(1024, 512, 256, 128),
            bands=(112, 80, 48, 24),
            density=True,
        ),
    ),
)
