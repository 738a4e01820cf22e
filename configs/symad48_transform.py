"""symAD at 48 kHz and 12.8 kbps: starts as a transform coder with codebooks by k-means, then its decoder is trained.

Command: python scripts/transform_start.py runs/start
then: adjax train configs/symad48_transform.py --set init_from=runs/start
--set 'data.train=["speech48","ljspeech"]' --set 'data.validation=["valid48"]'
--export checkpoints/symad48-trained --export-type sparse-int4
Time: 68 minutes on one CPU core. Result: docs/experiments.md, "symAD as a transform coder".
"""

from dataclasses import replace

from spectral48_decoder import config as spectral48_decoder

from adjax import zoo
from adjax.config import Optimizer, TrainConfig

config = TrainConfig(
    model=zoo.symad48_trained,
    data=replace(
        spectral48_decoder.data,
        crop_samples=10200,
        context_samples=1800,
        # At other speeds, recordings would end at other frequencies than at 20 kHz.
        augmentation=replace(spectral48_decoder.data.augmentation, speeds=(1.0,)),
    ),
    # Below 2 kHz the decoder has waveforms, above it noise.
    losses=replace(spectral48_decoder.losses, complex_below_hz=2000.0, magnitude_above_hz=2000.0),
    optimizer=Optimizer(
        learning_rate=1e-4, betas=(0.8, 0.99), schedule="cosine", warmup_steps=20, final_share=0.02, damping=0.002
    ),
    trained=("decoder",),
    steps=5000,
    log_every=50,
    evaluate_every=250,
    save_every=250,
)
