"""Second stage of the model at 24 kHz: its decoder alone, for many microphones; all before it is frozen.

Command: adjax train configs/spectral24_decoder.py --set init_from=runs/spectral24/model
--set 'data.train=["speech24","speech48"]' --set 'data.validation=["valid"]'
Time: 19 minutes on one CPU core. Result: docs/experiments.md, "Many microphones".
"""

from dataclasses import replace

from spectral24 import config as spectral24
from spectral48_decoder import config as spectral48_decoder

augmentation = replace(
    spectral24.data.augmentation, share=1.0, equalizer_db=6.0, speeds=spectral48_decoder.data.augmentation.speeds
)
config = replace(
    spectral48_decoder,
    model=spectral24.model,
    data=replace(spectral24.data, augmentation=augmentation),
    losses=replace(spectral24.losses, magnitude_start_step=0),
)
