"""The models known here: AudioDec's published ones and adjax's own, each a row made from another."""

from __future__ import annotations

from dataclasses import replace

from adjax.config import ConvDecoder, ConvEncoder, ModelConfig, Quantizer, SpectralDecoder, SpectralEncoder

PUBLISHED = "CC BY-NC 4.0 where imported from AudioDec's release"

symad48 = ModelConfig("symad48", licence=PUBLISHED, source="AudioDec symAD, VCTK 48 kHz")
symad24 = replace(symad48, name="symad24", sample_rate_hz=24000, source="AudioDec symAD, LibriTTS 24 kHz")
symaad48 = replace(
    symad48,
    name="symaad48",
    encoder=ConvEncoder(activate=True, weight_norm=True),
    decoder=ConvDecoder(activate=True, weight_norm=True),
    source="AudioDec symAAD, VCTK 48 kHz",
)
symad48_c16 = replace(
    symad48,
    name="symad48-c16",
    encoder=ConvEncoder(strides=(2, 4, 5, 8)),
    quantizer=Quantizer(codebooks=16),
    decoder=ConvDecoder(strides=(8, 5, 4, 2)),
    source="AudioDec symAD with 16 codebooks and hop 320, VCTK 48 kHz",
)
symad48_univ = replace(symad48, name="symad48-univ", source="AudioDec symAD Univ, VCTK 48 kHz")

spectral48 = ModelConfig(
    "spectral48",
    encoder=SpectralEncoder(),
    quantizer=Quantizer(
        dim=32, decay=0.99, commit_every_stage=True, kmeans_start_step=150, restart_below=0.05, dropout=0.1
    ),
    decoder=SpectralDecoder(noise_smoothing_bins=5),
    projector_bias=True,
    source="trained by adjax; see its model card",
)

MODELS = {m.name: m for m in (spectral48, symad48, symad24, symaad48, symad48_c16, symad48_univ)}
DEFAULT_MODEL = spectral48.name
