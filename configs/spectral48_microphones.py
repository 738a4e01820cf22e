"""Fourth stage of the default model: all of its parts, encoder and codebooks too, for many microphones.

Command: adjax train configs/spectral48_microphones.py --set init_from=checkpoints/spectral48
--set 'data.train=["speech48","ljspeech"]' --set 'data.validation=["valid48"]'
(what spectral48_adversarial.py exported); then: that once more, from the result
As in spectral48, codebooks start anew by k-means after 200 steps; --set model.quantizer.kmeans_start_step=0 keeps them.
Time: 30 minutes on one CPU core. Result: docs/experiments.md, "Encoder and codebooks, too".
"""

from dataclasses import replace

from spectral48_decoder import config as spectral48_decoder

from adjax.config import PARTS

config = replace(spectral48_decoder, trained=PARTS, steps=12_000, save_every=1000)
