"""symAD at 48 kHz and 12.8 kbps that starts as a transform coder: its codebooks by k-means, then its decoder trained.

Command: python scripts/transform_start.py runs/start --speech speech48
then: adjax train configs/symad48_transform.py --set init_from=runs/start
--set 'data.train=["speech48","ljspeech"]' --set 'data.validation=["valid48"]'
Time: 8 minutes on one CPU core. Result: docs/training.md, "symAD as a transform coder".
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
        quantizer=Quantizer(
            decay=0.99, kmeans_start_step=50, restart_below=0.05, commit_every_stage=True, predicted=16, beams=4
        ),
        decoder=ConvDecoder(delay_samples=300),
        licence="Apache-2.0",
        source="symAD's layers, started as a transform coder and trained by adjax",
    ),
    data=replace(spectral48.data, crop_samples=10200, context_samples=1800),
    losses=replace(spectral48.losses, magnitude_start_step=0),
    optimizer=Optimizer(learning_rate=3e-6, betas=(0.8, 0.99), schedule="cosine", warmup_steps=100, final_share=0.02),
    trained=("quantizer", "decoder"),
    steps=500,
    log_every=50,
    evaluate_every=100,
    save_every=250,
)
