"""Rows of the vocoders, and the file of their input statistics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from adjax.config import Vocoder
from adjax.torch_port.layers import Conv
from adjax.torch_port.layout import Row

STATISTICS = ("mean", "scale")  # their names in a checkpoint and in adjax


def vocoder_rows(config: Vocoder, dim: int) -> list[Row]:
    """The tensors of a vocoder of latents [dim], in the released program's order."""

    def conv(key: str) -> Conv:
        return Conv(key, ("decoder", key.replace(".", "_")), causal=True, weight_norm=config.weight_norm)

    statistics = [Row(key, (dim,), ("stats", "decoder", key)) for key in STATISTICS if config.statistics]
    widths = [config.channels >> i for i in range(len(config.strides) + 1)]
    upsamples, blocks = [], []
    for i, (stride, inputs, outputs) in enumerate(zip(config.strides, widths, widths[1:], strict=False)):
        upsamples += conv(f"upsamples.{i}").transposed(inputs, outputs, stride, config.bias)
        blocks += (_grouped_block if config.groups > 1 else _mean_block)(config, conv(f"blocks.{i}"), outputs)
    return [
        *statistics,
        *conv("input_conv").rows(dim, widths[0], config.kernel_size, bias=config.bias),
        *upsamples,
        *blocks,
        *conv("output_conv").rows(widths[-1], config.out_channels, config.kernel_size, bias=config.bias),
    ]


def _convs(config: Vocoder, block: int) -> Iterator[tuple[str, str, int, int]]:
    """PyTorch's name, adjax's name, kernel and dilation of each convolution of a residual block."""
    kernel, dilations = config.block_kernels[block], config.block_dilations[block]
    for k, dilation in enumerate(dilations):
        yield f"convs1.{k}", f"convs1_{k}", kernel, dilation
    for k in range(len(dilations) if config.additional_convs else 0):
        yield f"convs2.{k}", f"convs2_{k}", kernel, 1


def _mean_block(config: Vocoder, root: Conv, channels: int) -> Iterator[Row]:
    for j in range(len(config.block_kernels)):
        block = root.at(f"blocks.{j}", f"blocks_{j}")
        for key, name, kernel, dilation in _convs(config, j):
            yield from block.at(key, name).rows(channels, channels, kernel, dilation, config.bias)


def _grouped_block(config: Vocoder, root: Conv, channels: int) -> Iterator[Row]:
    """PyTorch's grouped convolutions have all groups in one tensor; adjax's groups are layers of their own."""
    groups = range(config.groups)
    for key, name, kernel, dilation in _convs(config, 0):
        copies = [
            root.at(key, f"groups_{g}/{name}").rows(channels, channels, kernel, dilation, config.bias) for g in groups
        ]
        for rows in zip(*copies, strict=True):
            if rows[0].path is None:  # one buffer for all groups' channels
                yield replace(rows[0], shape=(1, config.groups * channels, rows[0].shape[2]))
            else:
                yield from (replace(row, part=g) for g, row in enumerate(rows))
    yield from root.at("conv_out", "conv_out").pointwise(config.groups * channels, channels)
