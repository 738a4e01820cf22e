"""Rows of the symmetric autoencoders (symAD, symAAD)."""

from __future__ import annotations

from collections.abc import Iterator

from adjax.config import ConvDecoder, ConvEncoder, ModelConfig, Quantizer
from adjax.errors import AdjaxError
from adjax.torch_port.layers import Conv
from adjax.torch_port.layout import Row

_KERNEL, _DILATIONS = 7, (1, 3, 9)  # of the first and last convolutions and of the residual units


def autoencoder_rows(config: ModelConfig) -> list[Row]:
    """The tensors of a symmetric autoencoder (symAD, symAAD), in the released program's order."""
    encoder, decoder, quantizer = config.encoder, config.decoder, config.quantizer
    if not isinstance(encoder, ConvEncoder) or not isinstance(decoder, ConvDecoder):
        raise AdjaxError(f"{config.name}: only a ConvEncoder with a ConvDecoder has the released program's tensors")
    width = encoder.channels * encoder.ratios[-1]
    projector = Conv("projector.project", ("projector",), encoder.causal, encoder.weight_norm)
    return [
        *_encoder(encoder),
        *_decoder(decoder, quantizer.dim),
        *projector.rows(width, quantizer.dim, 3, bias=config.projector_bias),
        *_quantizer(quantizer),
    ]


def _residual_units(block: Conv, channels: int) -> Iterator[Row]:
    for i, dilation in enumerate(_DILATIONS):
        unit = block.at(f"res_units.{i}", f"res_units_{i}")
        yield from unit.at("conv1", "conv1").rows(channels, channels, _KERNEL, dilation)
        yield from unit.at("conv2", "conv2").pointwise(channels, channels)


def _encoder(config: ConvEncoder) -> Iterator[Row]:
    root = Conv("encoder", ("encoder",), config.causal, config.weight_norm)
    yield from root.at("conv", "conv").rows(config.in_channels, config.channels, _KERNEL)
    inputs = config.channels
    for i, (ratio, stride) in enumerate(zip(config.ratios, config.strides, strict=True)):
        block, outputs = root.at(f"conv_blocks.{i}", f"conv_blocks_{i}"), config.channels * ratio
        yield from _residual_units(block, inputs)
        yield from block.at("conv", "conv").rows(inputs, outputs, 2 * stride, bias=config.bias)
        inputs = outputs


def _decoder(config: ConvDecoder, dim: int) -> Iterator[Row]:
    root = Conv("decoder", ("decoder",), config.causal, config.weight_norm)
    inputs = config.channels * config.ratios[0]
    yield from root.at("conv1", "conv1").rows(dim, inputs, _KERNEL)
    for i, (ratio, stride) in enumerate(zip((*config.ratios[1:], 1), config.strides, strict=True)):
        activated = ".1" if config.activate else ""  # PyTorch counts the activation before the block
        block, outputs = root.at(f"conv_blocks.{i}{activated}", f"conv_blocks_{i}"), config.channels * ratio
        yield from block.at("conv", "conv").transposed(inputs, outputs, stride, config.bias)
        yield from _residual_units(block, outputs)
        inputs = outputs
    yield from root.at("conv2", "conv2").rows(inputs, config.out_channels, _KERNEL)


def _quantizer(config: Quantizer) -> Iterator[Row]:
    vectors, counts = (config.dim, config.codebook_size), (config.codebook_size,)
    for i in range(config.codebooks):
        for name, shape in (("embed", vectors), ("cluster_size", counts), ("embed_avg", vectors)):
            path = ("codebook", "quantizer", name)
            yield Row(f"quantizer.codebook.layers.{i}.{name}", shape, path, stage=i)
