"""Second stage of the default model: its decoder alone, for many microphones; all before it is frozen.

Command: adjax train configs/spectral48_decoder.py --set init_from=runs/spectral48/model
--set 'data.train=["speech48","ljspeech"]' --set 'data.validation=["valid48"]'
Time: 20 minutes on one CPU core. Result: docs/experiments.md, "Many microphones".
"""

from dataclasses import replace

from spectral48 import config as spectral48

augmentation = replace(
    spectral48.data.augmentation,
    share=1.0,
    low_pass_share=spectral48.data.augmentation.share,
    equalizer_db=6.0,
    speeds=(0.9, 0.95, 1.0, 1.05, 1.1),
)
config = replace(
    spectral48,
    data=replace(spectral48.data, augmentation=augmentation),
    losses=replace(spectral48.losses, magnitude_start_step=0),
    optimizer=replace(spectral48.optimizer, learning_rate=5e-4),
    trained=("decoder",),
    steps=8_000,
    evaluate_every=2000,
    save_every=500,
)
