"""A codec: encoder, projector, residual quantizer and decoder, declared as the papers draw them."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import flax.linen as nn
import jax
from jax import Array

from adjax import config
from adjax.models.autoencoder import ConvDecoder, ConvEncoder
from adjax.models.spectral import SpectralDecoder, SpectralEncoder, projection_init, transforms
from adjax.models.vocoder import Vocoder
from adjax.nn.conv import STATS, Conv
from adjax.nn.quantize import CODEBOOK, Quantized, ResidualQuantizer


class Reconstruction(NamedTuple):
    """A training forward pass: decoded audio [batch, samples, channels] and what the quantizer did."""

    audio: Array
    quantized: Quantized


class Codec(nn.Module):
    """Audio [batch, samples, channels], codes int32[batch, frames, codebooks].

    The three parts are methods of their own, so that an encoder and a decoder can run on different machines. With
    `remat` a backward pass computes the activations inside blocks again instead of keeping them (jax.checkpoint).
    """

    config: config.ModelConfig
    remat: bool = False

    def setup(self) -> None:
        c = self.config
        encoder, decoder = c.encoder, c.decoder
        if isinstance(encoder, config.ConvEncoder):
            self.encoder = ConvEncoder(encoder, self.remat)
            norm, start = encoder.weight_norm, None
        else:
            self.encoder = SpectralEncoder(encoder, c.sample_rate_hz, c.quantizer.dim, self.remat)
            norm, start = False, projection_init(encoder, c.quantizer.dim, c.sample_rate_hz)
        self.projector = Conv(
            c.quantizer.dim, 3, bias=c.projector_bias, causal=encoder.causal, weight_norm=norm, kernel_init=start
        )
        self.quantizer = ResidualQuantizer(c.quantizer)
        if isinstance(decoder, config.ConvDecoder):
            self.decoder = ConvDecoder(decoder, self.remat)
        elif isinstance(decoder, config.Vocoder):
            self.decoder = Vocoder(decoder, self.remat)
        else:
            self.decoder = SpectralDecoder(decoder, c.sample_rate_hz, self.remat)

    def latents(self, audio: Array) -> Array:
        """Unquantized latents [batch, frames, dim]."""
        return self.projector(self.encoder(audio))

    def encode(self, audio: Array, codebooks: int | None = None) -> Array:
        """Codes of audio, of so many leading codebooks or all; samples a whole number of hops."""
        return self.quantizer.encode(self.latents(audio), codebooks)

    def decode(self, codes: Array) -> Array:
        """Audio of codes; any number of leading codebooks."""
        return self.decoder(self.quantizer.decode(codes))

    def decode_latents(self, zq: Array) -> Array:
        """Audio of latents [batch, frames, dim]."""
        return self.decoder(zq)

    def __call__(self, audio: Array, active: Array | None = None) -> Reconstruction:
        """Training forward pass; `active` int32[batch]: leading codebooks in each crop's output (None: all)."""
        quantized = self.quantizer(self.latents(audio), active)
        return Reconstruction(self.decoder(quantized.zq), quantized)


def without_weight_norm(model: config.ModelConfig) -> config.ModelConfig:
    """The model whose parameters are another's with weight norm folded."""
    encoder, decoder = model.encoder, model.decoder
    if isinstance(encoder, config.ConvEncoder):
        encoder = replace(encoder, weight_norm=False)
    if isinstance(decoder, config.ConvDecoder | config.Vocoder):
        decoder = replace(decoder, weight_norm=False)
    return replace(model, encoder=encoder, decoder=decoder)


def fixed_kernels(model: config.ModelConfig) -> dict[str, dict]:
    """Kernels that are constants of the model, by part and layer."""
    parts = {}
    if isinstance(model.encoder, config.SpectralEncoder):
        parts["encoder"] = transforms(model.hop_samples)["encoder"]
    if isinstance(model.decoder, config.SpectralDecoder):
        parts["decoder"] = transforms(model.hop_samples)["decoder"]
    return parts


def init(model: config.ModelConfig, key: Array) -> dict:
    """Fresh variables of a model: collections `params`, `codebook` and, where the model has constants, `stats`."""
    audio = jax.numpy.zeros((1, model.hop_samples * 2, model.audio_channels))
    return dict(Codec(model).init(key, audio, mutable=["params", CODEBOOK, STATS]))
