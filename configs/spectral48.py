"""adjax's own frame-rate model at 48 kHz, 12.8 kbps: the default that comes with the package.

Command: adjax train configs/spectral48.py --set 'data.train=["speech48"]' --set 'data.validation=["valid48"]'
Time: 30,000 steps in 78 minutes on one CPU core. Result on unseen speakers, with noise_smoothing_bins=1 and
gain_bands=0: PESQ-WB 2.06, STOI 0.87. How the shipped weights came about: checkpoints/spectral48/README.md.
"""

from adjax import zoo
from adjax.config import Data, Losses, Mel, Optimizer, TrainConfig

config = TrainConfig(
    model=zoo.spectral48,
    data=Data(batch_size=4, crop_samples=22200, context_samples=1800, gain_db=(-6.0, 3.0)),
    losses=Losses(
        mel=Mel(
            fft_sizes=(2048, 1024, 512, 256),
            hop_samples=(1024, 512, 256, 128),
            win_lengths=(2048, 1024, 512, 256),
            bands=(128, 96, 56, 28),
            density=True,
        ),
        mel_weight=1.0,
        complex_weight=4.0,
        complex_below_hz=4000.0,
        error_weight=0.1,
        vq_weight=0.05,
    ),
    optimizer=Optimizer(learning_rate=1e-3, betas=(0.8, 0.99), schedule="cosine", warmup_steps=100, final_share=0.02),
    steps=30_000,
    log_every=100,
    evaluate_every=2000,
    save_every=1000,
)
