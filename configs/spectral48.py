"""adjax's own frame-rate model at 48 kHz, 12.8 kbps: the default that comes with the package.

Command: adjax train configs/spectral48.py --set 'data.train=["speech48"]' --set 'data.validation=["valid48"]'
Time: about 80 minutes on one CPU core. Result on unseen speakers: PESQ-WB 2.97, STOI 0.95, by
39,800 steps in two hours and three stages: without prediction, then with it, and with the magnitude
loss in the last alone (checkpoints/spectral48/README.md has the commands).
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
        complex_weight=12.0,
        complex_below_hz=4000.0,
        magnitude_weight=8.0,
        magnitude_above_hz=3000.0,
        error_weight=0.1,
        vq_weight=0.05,
    ),
    optimizer=Optimizer(learning_rate=1e-3, betas=(0.8, 0.99), schedule="cosine", warmup_steps=100, final_share=0.02),
    steps=24_000,
    log_every=100,
    evaluate_every=5000,
    save_every=1000,
)
