"""adjax's own frame-rate model at 48 kHz, 12.8 kbps: the default that comes with the package.

Command: adjax train configs/spectral48.py --set 'data.train=["speech48","ljspeech"]'
--set 'data.validation=["valid48"]'
Time: 74 minutes on one CPU core. Result: the weights in the package before the further stages,
spectral48_decoder.py, spectral48_adversarial.py and spectral48_microphones.py (docs/experiments.md).
"""

from adjax import zoo
from adjax.config import Augmentation, Data, Losses, Mel, Optimizer, TrainConfig

config = TrainConfig(
    model=zoo.spectral48,
    data=Data(
        batch_size=4,
        crop_samples=24000,
        gain_db=(-6.0, 3.0),
        # The floor is the noise of 16-bit audio; the low-pass is the band of lower sample rates.
        augmentation=Augmentation(
            share=0.15, low_pass_hz=(3800.0, 20000.0), poles=40, speeds=(0.9, 1.0, 1.1), noise_floor_db=-101.0
        ),
    ),
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
        magnitude_start_step=12_000,
        error_weight=0.1,
        vq_weight=0.05,
    ),
    optimizer=Optimizer(learning_rate=1e-3, betas=(0.8, 0.99), schedule="cosine", warmup_steps=100, final_share=0.02),
    steps=26_000,
    log_every=100,
    evaluate_every=5000,
    save_every=1000,
)
