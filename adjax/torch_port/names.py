"""The table of a released model's tensors: PyTorch key and shape, adjax path and shape, and the layouts between them.

Both directions read the same rows, so what import takes is what export writes. A row has the PyTorch name of a
weight-normed pair as released (`weight_g`, `weight_v`); import takes PyTorch's later names for it too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adjax.config import ConvDecoder, ConvEncoder, ModelConfig, Quantizer
from adjax.errors import AdjaxError

Shape = tuple[int, ...]
TreePath = tuple[str, ...]

_KERNEL, _DILATIONS = 7, (1, 3, 9)  # of the first and last convolutions and of the residual units
_LATER_NAMES = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}


@dataclass(frozen=True)
class Layout:
    """How one kind of tensor is stored on either side."""

    shape: Callable[[Shape], Shape]  # adjax's, of PyTorch's
    from_torch: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray, Shape], np.ndarray]  # with PyTorch's shape


def _taps_from_torch(weight: np.ndarray) -> np.ndarray:
    channels, features, length = weight.shape
    taps = weight.reshape(channels, features, 2, length // 2).transpose(2, 0, 3, 1)
    return taps[::-1].reshape(2, channels, length // 2 * features)  # the first half of PyTorch's is the current frame's


def _taps_to_torch(kernel: np.ndarray, shape: Shape) -> np.ndarray:
    channels, features, length = shape
    taps = kernel[::-1].reshape(2, channels, length // 2, features)
    return taps.transpose(1, 3, 0, 2).reshape(shape)


# Kernels (out, in, k) to (k, in, out); their gains and biases; codebooks (dim, size) to (size, dim).
REVERSED = Layout(lambda shape: shape[::-1], np.transpose, lambda array, _: np.transpose(array))
# Transposed kernels (in, out, 2s) to two taps over frames (2, in, s * out), sample major.
TAPS = Layout(lambda shape: (2, shape[0], shape[2] // 2 * shape[1]), _taps_from_torch, _taps_to_torch)
# Their gains (in, 1, 1) to (1, in, 1).
TAP_GAINS = Layout(
    lambda shape: (shape[1], shape[0], shape[2]),
    lambda array: array.transpose(1, 0, 2),
    lambda array, _: array.transpose(1, 0, 2),
)


@dataclass(frozen=True)
class Row:
    """One tensor of a checkpoint; without a path a stream buffer: zeros, which adjax does not keep with the weights."""

    key: str
    shape: Shape
    path: TreePath | None = None
    layout: Layout = REVERSED
    stage: int | None = None  # its index along the first axis of adjax's leaf, which stacks the stages


def from_torch(rows: Sequence[Row], state: Mapping[str, Any]) -> dict[str, Any]:
    """adjax variables (nested dicts of float32 arrays) of a checkpoint's state dict.

    Raises AdjaxError with the name of every missing, unknown and misshapen key.
    """
    state = _released_names(state)
    known = {row.key for row in rows}
    problems = [f"missing: {row.key}" for row in rows if row.key not in state]
    problems += [f"unknown: {key!r}" for key in state if key not in known]
    problems += [p for row in rows if row.key in state for p in _misfit(row.key, state[row.key], row.shape)]
    if problems:
        raise AdjaxError(f"the checkpoint does not fit its configuration: {'; '.join(problems)}")
    stages: dict[TreePath, list[np.ndarray]] = {}
    variables: dict[str, Any] = {}
    for row in rows:
        if row.path is None:
            continue
        array = np.array(row.layout.from_torch(state[row.key]), order="C")
        if row.stage is not None:
            stages.setdefault(row.path, []).append(array)
        else:
            _insert(variables, row.path, array)
    for path, arrays in stages.items():
        _insert(variables, path, np.stack(arrays))
    return variables


def to_torch(rows: Sequence[Row], variables: Mapping[str, Any]) -> OrderedDict[str, np.ndarray]:
    """The released program's state dict, in its order, of adjax variables: the inverse of `from_torch`.

    Raises AdjaxError with the path of every missing, unknown and misshapen variable.
    """
    leaves = dict(_leaves(variables))
    shapes: dict[TreePath, Shape] = {}
    for row in rows:
        if row.path is not None:
            stacked = () if row.stage is None else (row.stage + 1,)  # the last stage's row decides
            shapes[row.path] = (*stacked, *row.layout.shape(row.shape))
    problems = [f"missing: {'/'.join(path)}" for path in shapes if path not in leaves]
    problems += [f"unknown: {'/'.join(path)}" for path in leaves if path not in shapes]
    problems += [p for path in shapes if path in leaves for p in _misfit("/".join(path), leaves[path], shapes[path])]
    if problems:
        raise AdjaxError(f"the variables do not fit their configuration: {'; '.join(problems)}")
    state: OrderedDict[str, np.ndarray] = OrderedDict()
    for row in rows:
        if row.path is None:
            state[row.key] = np.zeros(row.shape, np.float32)
        else:
            leaf = leaves[row.path] if row.stage is None else leaves[row.path][row.stage]
            state[row.key] = np.ascontiguousarray(row.layout.to_torch(leaf, row.shape))
    return state


def _released_names(state: Mapping[str, Any]) -> dict[str, Any]:
    renamed: dict[str, Any] = {}
    for key, value in state.items():
        key = str(key)
        for later, released in _LATER_NAMES.items():
            if key.endswith("." + later):
                key = key.removesuffix(later) + released
        if key in renamed:
            raise AdjaxError(f"the checkpoint holds {key!r} twice, by both names of a weight-normed tensor")
        renamed[key] = value
    return renamed


def _misfit(name: str, array: Any, shape: Shape) -> list[str]:
    if not isinstance(array, np.ndarray):
        return [f"{name} is a {type(array).__name__}, but must be a tensor"]
    if array.shape != shape:
        return [f"{name} has shape {array.shape}, but must have {shape}"]
    return [] if array.dtype == np.float32 else [f"{name} is {array.dtype}, but must be float32"]


def _insert(tree: dict[str, Any], path: TreePath, array: np.ndarray) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = array


def _leaves(tree: Mapping[str, Any], path: TreePath = ()) -> Iterator[tuple[TreePath, np.ndarray]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), np.asarray(value)


# ---------------------------------------------------------------------------------------------------------- the rows


def autoencoder_rows(config: ModelConfig) -> list[Row]:
    """The tensors of a symmetric autoencoder (symAD, symAAD), in the released program's order."""
    encoder, decoder, quantizer = config.encoder, config.decoder, config.quantizer
    if not isinstance(encoder, ConvEncoder) or not isinstance(decoder, ConvDecoder):
        raise AdjaxError(f"{config.name}: only a ConvEncoder with a ConvDecoder has the released program's tensors")
    width = encoder.channels * encoder.ratios[-1]
    projector = _Conv("projector.project", ("projector",), encoder.causal, encoder.weight_norm)
    return [
        *_encoder(encoder),
        *_decoder(decoder, quantizer.dim),
        *projector.rows(width, quantizer.dim, 3, bias=config.projector_bias),
        *_quantizer(quantizer),
    ]


@dataclass(frozen=True)
class _Conv:
    """Where a convolution is on either side, and what all the rows of a model have in common."""

    key: str
    path: TreePath  # below `params`
    causal: bool
    weight_norm: bool

    def at(self, key: str, path: str) -> _Conv:
        return _Conv(f"{self.key}.{key}", (*self.path, *path.split("/")), self.causal, self.weight_norm)

    def rows(self, inputs: int, outputs: int, kernel: int, dilation: int = 1, bias: bool = False) -> list[Row]:
        """A convolution padded by the released program."""
        buffer = [Row(f"{self.key}.pad_buffer", (1, inputs, (kernel - 1) * dilation))] if self.causal else []
        return buffer + self._weights("conv.", (outputs, inputs, kernel), outputs if bias else 0, REVERSED, REVERSED)

    def pointwise(self, inputs: int, outputs: int) -> list[Row]:
        """A 1x1 convolution, which needs neither padding nor a name of its own within the layer."""
        return self._weights("", (outputs, inputs, 1), 0, REVERSED, REVERSED)

    def transposed(self, inputs: int, outputs: int, stride: int, bias: bool) -> list[Row]:
        buffer = [Row(f"{self.key}.pad_buffer", (1, inputs, 1))] if self.causal else []
        weights = self._weights("deconv.", (inputs, outputs, 2 * stride), outputs if bias else 0, TAPS, TAP_GAINS)
        return buffer + weights

    def _weights(self, name: str, shape: Shape, biases: int, layout: Layout, gains: Layout) -> list[Row]:
        key, path = f"{self.key}.{name}", ("params", *self.path)
        bias = [Row(f"{key}bias", (biases,), (*path, "bias"))] if biases else []
        if not self.weight_norm:
            return [Row(f"{key}weight", shape, (*path, "kernel"), layout), *bias]
        return [
            *bias,
            Row(f"{key}weight_g", (shape[0], 1, 1), (*path, "g"), gains),
            Row(f"{key}weight_v", shape, (*path, "v"), layout),
        ]

    def residual_units(self, channels: int) -> Iterator[Row]:
        for i, dilation in enumerate(_DILATIONS):
            unit = self.at(f"res_units.{i}", f"res_units_{i}")
            yield from unit.at("conv1", "conv1").rows(channels, channels, _KERNEL, dilation)
            yield from unit.at("conv2", "conv2").pointwise(channels, channels)


def _encoder(config: ConvEncoder) -> Iterator[Row]:
    root = _Conv("encoder", ("encoder",), config.causal, config.weight_norm)
    yield from root.at("conv", "conv").rows(config.in_channels, config.channels, _KERNEL)
    inputs = config.channels
    for i, (ratio, stride) in enumerate(zip(config.ratios, config.strides, strict=True)):
        block, outputs = root.at(f"conv_blocks.{i}", f"conv_blocks_{i}"), config.channels * ratio
        yield from block.residual_units(inputs)
        yield from block.at("conv", "conv").rows(inputs, outputs, 2 * stride, bias=config.bias)
        inputs = outputs


def _decoder(config: ConvDecoder, dim: int) -> Iterator[Row]:
    root = _Conv("decoder", ("decoder",), config.causal, config.weight_norm)
    inputs = config.channels * config.ratios[0]
    yield from root.at("conv1", "conv1").rows(dim, inputs, _KERNEL)
    for i, (ratio, stride) in enumerate(zip((*config.ratios[1:], 1), config.strides, strict=True)):
        activated = ".1" if config.activate else ""  # PyTorch counts the activation before the block
        block, outputs = root.at(f"conv_blocks.{i}{activated}", f"conv_blocks_{i}"), config.channels * ratio
        yield from block.at("conv", "conv").transposed(inputs, outputs, stride, config.bias)
        yield from block.residual_units(outputs)
        inputs = outputs
    yield from root.at("conv2", "conv2").rows(inputs, config.out_channels, _KERNEL)


def _quantizer(config: Quantizer) -> Iterator[Row]:
    vectors, counts = (config.dim, config.codebook_size), (config.codebook_size,)
    for i in range(config.codebooks):
        for name, shape in (("embed", vectors), ("cluster_size", counts), ("embed_avg", vectors)):
            path = ("codebook", "quantizer", name)
            yield Row(f"quantizer.codebook.layers.{i}.{name}", shape, path, stage=i)
