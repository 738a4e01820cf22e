"""Rows of the discriminators: multi-scale or spectral ones first, then the periods."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from adjax.config import Discriminators, MultiPeriod, MultiResolution, MultiScale
from adjax.errors import AdjaxError
from adjax.torch_port.layers import Conv
from adjax.torch_port.layout import COLUMN, IMAGE, REVERSED, Row

_FIRST_GROUPS = 4  # of the first strided convolution; each next one has four times as many


def discriminator_rows(config: Discriminators) -> list[Row]:
    """The tensors of all discriminators, in the released program's order.

    Raises AdjaxError for discriminators that the released program does not have.
    """
    problems = ["discriminators.stft"] if config.stft else []
    if config.scale and config.resolution:
        problems.append("discriminators.scale with discriminators.resolution")
    if config.scale and config.scale.norm != "none":
        problems.append(f"discriminators.scale.norm {config.scale.norm!r}")
    for name, part in (("resolution", config.resolution), ("period", config.period)):
        if part and part.norm not in ("weight", "none"):
            problems.append(f"discriminators.{name}.norm {part.norm!r}")
    if config.resolution and config.resolution.exponent != 1:
        problems.append(f"discriminators.resolution.exponent {config.resolution.exponent:g}")
    if problems:
        raise AdjaxError(f"the published program has no {', '.join(problems)}")
    return [
        *(_scales(config.scale) if config.scale else ()),
        *(_resolutions(config.resolution) if config.resolution else ()),
        *(_periods(config.period) if config.period else ()),
    ]


def _conv(module: str, name: str, discriminator: int, key: str, path: str, norm: str) -> Conv:
    place = (name, f"discriminators_{discriminator}", path)
    return Conv(f"{module}.discriminators.{discriminator}.{key}", place, causal=False, weight_norm=norm == "weight")


def _layer_key(index: int, layers: int) -> str:
    return f"layers.{index}.0" if index + 1 < layers else f"layers.{index}"  # all but the last have an activation


def _scales(config: MultiScale) -> Iterator[Row]:
    first, strided, penultimate, last = config.kernel_sizes
    widths, groups = [config.channels], []
    for i in range(len(config.strides)):
        widths.append(min(widths[-1] * (2 if i else 1), config.max_channels))
        groups.append(min(groups[-1] * 4, config.max_groups) if i else _FIRST_GROUPS)
    shapes = [(widths[0], 1, first)]
    shapes += [(b, a // g, strided) for (a, b), g in zip(pairwise(widths), groups, strict=True)]
    shapes += [(widths[-1], widths[-1], penultimate), (1, widths[-1], last)]
    for d in range(config.scales):
        for i, shape in enumerate(shapes):
            conv = _conv("msd", "scale", d, _layer_key(i, len(shapes)), f"layers_{i}", config.norm)
            yield from conv.weights("conv.", shape, shape[0], REVERSED)


def _resolutions(config: MultiResolution) -> Iterator[Row]:
    layers = len(config.kernel_sizes)
    for d, length in enumerate(config.win_lengths):
        yield Row(
            f"mrsd.discriminators.{d}.window", (length,), ("stats", "resolution", f"discriminators_{d}", "window")
        )
        for i, kernel in enumerate(config.kernel_sizes):
            inputs, outputs = config.channels if i else 1, config.channels if i + 1 < layers else 1
            conv = _conv("mrsd", "resolution", d, _layer_key(i, layers), f"layers_{i}", config.norm)
            yield from conv.weights("conv.", (outputs, inputs, *kernel), outputs, IMAGE)


def _periods(config: MultiPeriod) -> Iterator[Row]:
    strided, last = config.kernel_sizes
    widths = [1, *(min(config.channels * 4**i, config.max_channels) for i in range(len(config.strides)))]
    for d in range(len(config.periods)):
        for i, (inputs, outputs) in enumerate(pairwise(widths)):
            conv = _conv("mpd", "period", d, f"convs.{i}.0", f"convs_{i}", config.norm)
            yield from conv.weights("conv.", (outputs, inputs, strided, 1), outputs, COLUMN)
        conv = _conv("mpd", "period", d, "output_conv", "output_conv", config.norm)
        yield from conv.weights("conv.", (1, widths[-1], last - 1, 1), 1, COLUMN)
