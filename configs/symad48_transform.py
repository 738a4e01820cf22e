"""symAD at 48 kHz and 12.8 kbps that starts as a transform coder, with codebooks by k-means, and is trained from there.

Command: python scripts/transform_start.py runs/start --speech speech48 ljspeech
then: adjax train configs/symad48_transform.py --set init_from=runs/start
--set 'data.train=["speech48","ljspeech"]' --set 'data.validation=["valid48"]'
Time: 5.5 minutes on two CPU cores, then 33 on one. Result: docs/training.md, "symAD as a transform coder".
"""

from dataclasses import replace

from spectral48 import config as spectral48

from adjax import zoo
from adjax.config import ConvDecoder, ConvEncoder, Optimizer, Quantizer, TrainConfig

config = TrainConfig(
    model=replace(
        zoo.symad48,
        name="symad48-transform",
        encoder=ConvEncoder(aligned=True),
        quantizer=Quantizer(decay=0.999, commit_every_stage=True, predicted=17, prediction=0.9, beams=4),
        decoder=ConvDecoder(delay_samples=300),
        licence="Apache-2.0",
        source="symAD's layers, started as a transform coder and trained by adjax",
    ),
    data=replace(spectral48.data, crop_samples=10200, context_samples=1800),
    losses=replace(spectral48.losses, magnitude_start_step=0),
    optimizer=Optimizer(
        learning_rate=1e-4, betas=(0.8, 0.99), schedule="cosine", warmup_steps=20, final_share=0.02, damping=0.03
    ),
    steps=2000,
    log_every=50,
    evaluate_every=100,
    save_every=500,
)
