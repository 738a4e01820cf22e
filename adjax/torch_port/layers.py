"""Rows of the convolutions that the released networks consist of."""

from __future__ import annotations

from dataclasses import dataclass

from adjax.torch_port.layout import REVERSED, TAP_GAINS, TAPS, Layout, Row, Shape, TreePath


@dataclass(frozen=True)
class Conv:
    """Where a convolution is on either side, and what all the rows of a model have in common."""

    key: str
    path: TreePath  # below `params`
    causal: bool
    weight_norm: bool

    def at(self, key: str, path: str) -> Conv:
        return Conv(f"{self.key}.{key}", (*self.path, *path.split("/")), self.causal, self.weight_norm)

    def rows(self, inputs: int, outputs: int, kernel: int, dilation: int = 1, bias: bool = False) -> list[Row]:
        """A convolution padded by the released program."""
        buffer = [Row(f"{self.key}.pad_buffer", (1, inputs, (kernel - 1) * dilation))] if self.causal else []
        return buffer + self.weights("conv.", (outputs, inputs, kernel), outputs if bias else 0, REVERSED)

    def pointwise(self, inputs: int, outputs: int) -> list[Row]:
        """A 1x1 convolution, which needs neither padding nor a name of its own within the layer."""
        return self.weights("", (outputs, inputs, 1), 0, REVERSED)

    def transposed(self, inputs: int, outputs: int, stride: int, bias: bool) -> list[Row]:
        buffer = [Row(f"{self.key}.pad_buffer", (1, inputs, 1))] if self.causal else []
        weights = self.weights("deconv.", (inputs, outputs, 2 * stride), outputs if bias else 0, TAPS, TAP_GAINS)
        return buffer + weights

    def weights(self, name: str, shape: Shape, biases: int, layout: Layout, gains: Layout | None = None) -> list[Row]:
        """The weights alone: a kernel of PyTorch's `shape`, and a bias of `biases` elements unless 0."""
        key, path = f"{self.key}.{name}", ("params", *self.path)
        bias = [Row(f"{key}bias", (biases,), (*path, "bias"))] if biases else []
        if not self.weight_norm:
            return [Row(f"{key}weight", shape, (*path, "kernel"), layout), *bias]
        return [
            *bias,
            Row(f"{key}weight_g", (shape[0], *(1 for _ in shape[1:])), (*path, "g"), gains or layout),
            Row(f"{key}weight_v", shape, (*path, "v"), layout),
        ]
