"""The models known here: AudioDec's published ones and adjax's own, each a row made from another."""

from __future__ import annotations

from dataclasses import replace

from adjax.config import ConvDecoder, ConvEncoder, ModelConfig, Quantizer, SpectralDecoder, SpectralEncoder, Vocoder

PUBLISHED = "CC BY-NC 4.0 where imported from AudioDec's release"
UNRELEASED = "none released: yours"

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
symad48_joint = replace(
    symad48, name="symad48-joint", licence=UNRELEASED, source="AudioDec symAD* (encoder never frozen)"
)

# The AD models: symAD's encoder and codebooks, and a vocoder in place of the symmetric decoder.
_v0 = Vocoder(block_kernels=(3, 7, 11), block_dilations=((1, 3, 5),) * 3, groups=1)
_v1 = Vocoder(block_kernels=(11,), groups=3)
_v2 = replace(_v1, block_kernels=(3,))
symad48_v0 = replace(symad48, name="symad48-v0", decoder=_v0, source="AudioDec AD v0, VCTK 48 kHz")
symad48_v1 = replace(symad48, name="symad48-v1", decoder=_v1, source="AudioDec AD v1, VCTK 48 kHz")
symad48_v2 = replace(symad48, name="symad48-v2", decoder=_v2, source="AudioDec AD v2, VCTK 48 kHz")
symad24_v1 = replace(symad24, name="symad24-v1", decoder=_v1, source="AudioDec AD v1, LibriTTS 24 kHz")
symad48_v3 = replace(symad48_univ, name="symad48-v3", decoder=_v1, source="AudioDec AD v3 on symAD Univ, VCTK 48 kHz")
symad48_denoise = replace(
    symad48_v1, name="symad48-denoise", source="AudioDec symAD with a denoising encoder and AD v1, VCTK 48 kHz"
)

# Systems of the published comparison that were not released.
asymad48 = replace(
    symad48,
    name="asymad48",
    licence=UNRELEASED,
    decoder=replace(_v1, statistics=False),
    source="AudioDec asymAD, of which only the name is published: a multi-group decoder trained as an autoencoder",
)
soundstream48 = replace(
    symad48,
    name="soundstream48",
    licence=UNRELEASED,
    quantizer=Quantizer(decay=0.99, kmeans_start_step=1, restart_below=0.05, dropout=1.0),
    source="SoundStream's training of symAD's layers (arXiv 2107.03312)",
)

spectral48 = ModelConfig(
    "spectral48",
    encoder=SpectralEncoder(noise_floor_db=-90.0),
    quantizer=Quantizer(
        dim=48,
        decay=0.995,
        commit_every_stage=True,
        kmeans_start_step=200,
        restart_below=0.05,
        dropout=0.1,
        predicted=20,
        beams=4,
    ),
    decoder=SpectralDecoder(noise_smoothing_bins=5),
    projector_bias=True,
    source="trained by adjax; see its model card",
)
spectral48_denoise = replace(
    spectral48,
    name="spectral48-denoise",
    quantizer=replace(spectral48.quantizer, kmeans_start_step=0),
    source="trained by adjax: spectral48 with a denoising encoder; see its model card",
)
spectral24 = replace(
    spectral48,
    name="spectral24",
    sample_rate_hz=24000,
    encoder=SpectralEncoder(),
    quantizer=replace(spectral48.quantizer, dim=64),
)

symad48_transform = replace(
    symad48,
    name="symad48-transform",
    encoder=ConvEncoder(aligned=True),
    quantizer=Quantizer(decay=0.999, commit_every_stage=True, predicted=17, prediction=0.9, beams=4),
    decoder=ConvDecoder(delay_samples=420),
    licence="Apache-2.0",
    source="adjax: a transform coder in symAD's layers; see its model card",
)

symad48_trained = replace(
    symad48_transform, name="symad48-trained", source="adjax: trained on open speech; see its model card"
)
symad48_trained_v2 = replace(
    symad48_trained,
    name="symad48-trained-v2",
    decoder=replace(_v2, statistics=False, weight_norm=False, delay_samples=symad48_transform.delay_samples),
)

_PUBLISHED = (symad48, symad24, symaad48, symad48_c16, symad48_univ)
_PAIRINGS = (symad48_v0, symad48_v1, symad48_v2, symad48_v3, symad24_v1, symad48_denoise)
_COMPARED = (symad48_joint, asymad48, soundstream48)
_OWN = (spectral48, spectral48_denoise, spectral24, symad48_transform, symad48_trained, symad48_trained_v2)
MODELS = {m.name: m for m in (*_OWN, *_PUBLISHED, *_PAIRINGS, *_COMPARED)}
DEFAULT_MODEL = spectral48.name
