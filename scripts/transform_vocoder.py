"""Writes AudioDec's v1 or v2 on a transform start of symAD: its encoder and codebooks, a vocoder for its decoder.

Usage: python scripts/transform_vocoder.py OUT [--vocoder v2] [--start MODEL] [--sparse]

The start, a model of scripts/transform_start.py, is symad48-transform of the package unless another is named. The
vocoder makes of the same codes what its decoder makes, without data. Of what training has changed since in that decoder
it takes the loudness of noise alone. A leaky ReLU is linear by halves, so that signals pass as pairs, x and -x:
leaky(x) - leaky(-x) is (1 + slope) x. The fusion blocks' residual units are piecewise linear functions of what they are
given: exponentials of levels, in one layer, and of sums of logarithms, in two, which multiply what is coded by its
level; a number that is 0 or 1 chooses the sign of noise. All other branches start by adding nothing, as random
weights or, --sparse, as zeros. The output's tanh stays: taken back by pieces, it would make noise at high
frequencies.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from transform_start import (
    BLOCK,
    CLEAR,
    CODED,
    DEEPEST,
    FIRST,
    HOP,
    HOPS,
    LEVEL,
    LEVEL_WEIGHTS,
    LEVELS,
    LOWEST,
    MODEL,
    NOISE,
    NOISY,
    SHARES,
    SLOPE,
    STRIDES,
    UNCHANGED,
    Speech,
    Tree,
    any_speech,
    blank,
    block_basis,
    latent_scale,
)

from adjax import dsp, weights
from adjax.cli.training import read_config
from adjax.config import ModelConfig, Vocoder
from adjax.errors import AdjaxError
from adjax.models.vocoder import LAST_SLOPE

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
VOCODERS = ("v1", "v2")
LIFT = 4.0  # added to levels and logarithms, which leaves them positive
FAR = 20.0  # further down than any argument of a piecewise linear function
GROUPS = 3
QUIET, LOUD = 0.05, 16.0  # what is coded is multiplied well between these multiples of its RMS
LOUDEST = 3.5  # of noise, natural logarithm over the RMS of its bin
MOST = 4 * np.exp(LOUDEST)  # that it is never louder than
SIGNED = 2 * float(np.sqrt(np.sinh(0.5) * np.sinh((1 - np.exp(-1)) / 2)))  # noise in the start, geometric mean of signs

# Channels at the level of blocks, after which come those that a group's units write: GROUP, 0 before them.
PAIR = slice(0, 2 * CODED)
HEARD = slice(PAIR.stop, PAIR.stop + LEVELS)
MIXTURE = slice(HEARD.stop, HEARD.stop + NOISY)
GROUP = slice(MIXTURE.stop, MIXTURE.stop + 64)


class Function(NamedTuple):
    """A piecewise linear function of x: constant + sum of weights * leaky(x - knots)."""

    knots: np.ndarray
    weights: np.ndarray
    constant: float

    @classmethod
    def through(cls, knots: np.ndarray, values: np.ndarray, slope: float) -> Function:
        """Constant below the first knot, through `values` at `knots`, straight on above the last; for x above -FAR."""
        slopes = np.diff(values) / np.diff(knots)
        bends = np.diff(slopes, prepend=0) / (1 - slope)
        level = slope * bends.sum()  # what leaks is taken back by a knot below all x
        constant = values[0] + slope * np.sum(bends * knots[:-1]) + level * FAR
        return cls(np.append(knots[:-1], -FAR), np.append(bends, -level), float(constant))


def exponential(low: float, high: float, pieces: int, slope: float) -> Function:
    """e^x between `low` and `high`, between its chords and tangents."""
    knots = np.linspace(low, high, pieces + 1)
    return Function.through(knots, np.exp(knots) / (1 + (knots[1] - knots[0]) ** 2 / 16), slope)


def logarithm(high: float, pieces: int, slope: float) -> Function:
    """ln(max(x, 0) + QUIET) up to `high`."""
    natural = np.linspace(np.log(QUIET), np.log(high + QUIET), pieces + 1)
    bulge = (natural[1] - natural[0]) ** 2 / 16
    return Function.through(np.exp(natural) - QUIET, natural + bulge, slope)


class Unit:
    """A residual unit whose first convolution looks at the present frame, and whose hidden channels are given out."""

    def __init__(self, block: Tree, unit: int) -> None:
        self.first, self.last = block[f"convs1_{unit}"], block[f"convs2_{unit}"]
        self.last["kernel"][:] = 0
        self.last["bias"][:] = 0
        self._used = 0

    def hidden(self, weights: np.ndarray, bias: np.ndarray | float) -> slice:
        """Takes the next hidden channels, leaky(x @ weights[channels, count] + bias)."""
        taken = slice(self._used, self._used + weights.shape[1])
        self._used = taken.stop
        assert taken.stop <= len(self.first["bias"]), "a unit's hidden channels do not suffice"
        self.first["kernel"][:, :, taken] = 0
        self.first["kernel"][-1, :, taken] = weights
        self.first["bias"][taken] = bias
        return taken

    def add(self, taken: slice, output: int, weights: np.ndarray, constant: float = 0.0) -> None:
        """Adds hidden channels @ weights[count] + constant to an output channel."""
        self.last["kernel"][-1, taken, output] += weights
        self.last["bias"][output] += constant

    def apply(self, function: Function, argument: np.ndarray, output: int, shift: float = 0.0) -> None:
        """Adds function(x @ argument[channels] + shift) to an output channel."""
        size = len(function.knots)
        taken = self.hidden(np.repeat(argument[:, None], size, axis=1), shift - function.knots)
        self.add(taken, output, function.weights, function.constant)


def halves(x: np.ndarray, slope: float) -> np.ndarray:
    """Weights [2 * signals, outputs] of leaky pairs that give signals @ x."""
    return np.concatenate([x, -x]) / (1 + slope)


def pairs(x: np.ndarray) -> np.ndarray:
    """Weights that give signals as pairs, [..., 2 * signals], of those that give them as they are."""
    return np.concatenate([x, -x], axis=-1)


def write_frames(params: Tree, scale: np.ndarray, levels: np.ndarray) -> None:
    """First convolution: latents of this frame and the one before as pairs, then levels, of the given means."""
    first, frame = params["input_conv"], 2 * LOWEST
    first["kernel"][:, :, : 2 * frame + LEVELS] = 0
    for tap, here in ((-1, slice(0, LOWEST)), (-2, slice(LOWEST, frame))):
        signals = np.zeros((LOWEST, frame))
        signals[:, here] = np.eye(LOWEST)
        first["kernel"][tap, :LOWEST, : 2 * frame] = pairs(signals)
    first["bias"][: 2 * frame] = 0
    here = slice(2 * frame, 2 * frame + LEVELS)
    first["kernel"][-1, -LEVELS:, here] = np.diag(1 / scale)
    first["bias"][here] = levels + LIFT


def write_blocks(params: Tree, speech: Speech, slope: float, rng: np.random.Generator) -> None:
    """First upsampling: what is coded in the lowest MDCT bins of blocks, as pairs; levels; mixtures for signs."""
    stride, frame, basis = len(SHARES), 2 * LOWEST, block_basis()
    bias = params["upsamples_0"]["bias"]
    kernel = params["upsamples_0"]["kernel"].reshape(2, -1, stride, len(bias))
    kernel[..., : GROUP.stop] = 0
    bias[: GROUP.stop] = 0
    older, newer = dsp.synthesis_kernel(HOP)[:, :LOWEST] / latent_scale(speech)[:, None]
    samples = np.concatenate([newer, older]).reshape(frame, stride, BLOCK)
    bins = (basis / speech.rms_of(basis))[:, :CODED].reshape(2, BLOCK, CODED)
    heard = slice(2 * frame, 2 * frame + LEVELS)
    for j in range(stride):
        kernel[1, : 2 * frame, j, PAIR] = pairs(halves(samples[:, j] @ bins[1], slope))
        kernel[1 if j else 0, : 2 * frame, j, PAIR] += pairs(halves(samples[:, j - 1] @ bins[0], slope))
        kernel[0, heard, j, HEARD] = (1 - SHARES[j]) * np.eye(LEVELS)
        kernel[1, heard, j, HEARD] = SHARES[j] * np.eye(LEVELS)
    mixed = CLEAR * rng.choice([-1, 1], (2, frame, stride, NOISY)) / np.sqrt(2 * frame)
    kernel[:, : 2 * frame, :, MIXTURE] = np.concatenate([mixed, -mixed], axis=1) / (1 + slope)


def write_group(
    block: Tree, coded: np.ndarray, noisy: np.ndarray, loudness: np.ndarray, offsets: np.ndarray, slope: float
) -> tuple[np.ndarray, np.ndarray]:
    """A group's residual units: its coded bins times e to their level, and its bins of noise.

    Noise has the amplitude exp(levels @ loudness[levels, bins] + offsets[bins]). Gives their channels.
    """
    logs = GROUP.start + np.arange(2 * len(coded)).reshape(-1, 2)
    gains = logs.max() + 1 + np.arange(len(noisy))
    signs = gains + len(noisy)
    made, multiplied = signs + len(noisy), signs[-1] + 1 + len(noisy) + np.arange(len(coded))
    eye = np.eye(len(block["convs1_0"]["bias"]))
    units = [Unit(block, i) for i in range(3)]

    found = logarithm(LOUD, 34, slope)
    for k, bin_ in enumerate(coded):
        signal = (eye[bin_] - eye[CODED + bin_]) / (1 + slope)
        for half, sign in enumerate((1, -1)):
            units[0].apply(found, sign * signal, logs[k, half])
            units[0].last["bias"][logs[k, half]] += LIFT
    loud = exponential(LOUDEST - 11, LOUDEST, 10, slope)
    for j, (gain, bin_) in enumerate(zip(gains, noisy, strict=True)):
        units[j % 2].apply(loud, loudness[:, bin_] @ eye[HEARD], gain, offsets[bin_] - LIFT * loudness[:, bin_].sum())

    level = SLOPE * eye[HEARD.stop - 1]
    grown = exponential(np.log(QUIET) - 1, np.log(LOUD) + SLOPE * 5.5, 28, slope)
    for k, output in enumerate(multiplied):
        for half, sign in enumerate((1, -1)):
            scaled = Function(grown.knots, sign * grown.weights / UNCHANGED, sign * grown.constant / UNCHANGED)
            units[1].apply(scaled, eye[logs[k, half]] + level, output, -LIFT * (1 + SLOPE))
    for output, bin_ in zip(signs, noisy, strict=True):  # 0 or 1
        step = Function(np.array([-0.02, 0.02]), np.array([25, -25]) / (1 - slope), -slope / (1 - slope))
        units[1].apply(step, eye[MIXTURE.start + bin_], output)

    for output, gain, sign in zip(made, gains, signs, strict=True):
        kept = units[2].hidden(np.stack([eye[gain] + MOST * eye[sign], eye[gain] - MOST * eye[sign]], axis=1), 0.0)
        units[2].first["bias"][kept] = [-MOST, 0.0]
        chosen = units[2].hidden(eye[sign][:, None], 0.0)
        units[2].add(kept, output, np.array([1, -1]) / (1 - slope))
        units[2].add(chosen, output, np.array([-2 * slope * MOST / (1 - slope)]), slope * MOST / (1 - slope))
    return multiplied, made


def still(block: Tree) -> None:
    """Makes all of a group's residual units add nothing."""
    for i in range(3):
        Unit(block, i)


def pass_on(params: Tree, i: int, weights: np.ndarray, slope: float) -> None:
    """Upsampling i and its fusion block: signals @ weights[2, signals in, stride, signals out], as pairs."""
    bias, kernel, count = params[f"upsamples_{i}"]["bias"], params[f"upsamples_{i}"]["kernel"], weights.shape[-1]
    kernel = kernel.reshape(2, -1, weights.shape[2], len(bias))
    kernel[..., : 2 * count] = 0
    kernel[:, : 2 * weights.shape[1], :, : 2 * count] = pairs(np.stack([halves(w, slope) for w in weights]))
    bias[: 2 * count] = 0
    block = params[f"blocks_{i}"]
    for g in range(GROUPS):
        still(block[f"groups_{g}"])
    block["conv_out"]["kernel"][..., : 2 * count] = np.eye(GROUPS * len(bias), 2 * count)


def vocoder_of(start: Tree, model: ModelConfig, sparse: bool = False) -> Tree:
    """Variables of `model`, whose decoder is a vocoder: codes of a transform start, and what that makes of them."""
    assert isinstance(model.decoder, Vocoder)
    slope, rng = model.decoder.slope, np.random.default_rng(0)
    decoder, speech = blank(model, sparse)["params"]["decoder"], any_speech()
    variables = {**start, "params": {**start["params"], "decoder": decoder}}
    params, block = variables["params"]["decoder"], start["params"]["decoder"]["conv_blocks_0"]
    write_frames(params, LEVEL_WEIGHTS * np.log(4), block["conv"]["bias"][LEVEL])
    write_blocks(params, speech, slope, rng)

    first, last = (np.asarray(block["res_units_1"][name]["kernel"], np.float64)[-1] for name in ("conv1", "conv2"))
    offsets = np.log(SIGNED * np.diag(last[:NOISY, NOISE])) - DEEPEST
    mixed = params["blocks_0"]["conv_out"]["kernel"][0].reshape(GROUPS, -1, len(params["upsamples_0"]["bias"]))
    mixed[..., : 2 * (CODED + NOISY)] = 0
    parts = (np.array_split(np.arange(n), GROUPS) for n in (CODED, NOISY))
    for g, (coded, noisy) in enumerate(zip(*parts, strict=True)):
        made = write_group(params["blocks_0"][f"groups_{g}"], coded, noisy, first[LEVEL, :NOISY], offsets, slope)
        for channels, signals in zip(made, (coded, CODED + noisy), strict=True):
            mixed[g, channels, signals], mixed[g, channels, CODED + NOISY + signals] = 1, -1

    basis = block_basis()
    rows = (basis * speech.rms_of(basis)).reshape(2, STRIDES[2], HOPS[2], BLOCK)[::-1]
    rows = np.einsum("ajsn,sc->anjc", rows, speech.whitened(HOPS[2])[0])
    pass_on(params, 1, np.concatenate([rows[:, :CODED], rows[:, FIRST:]], axis=1), slope)
    for i, (here, below) in enumerate(((HOPS[2], HOPS[1]), (HOPS[1], HOPS[0])), start=2):
        samples = speech.whitened(here)[1].reshape(here, here // below, below) @ speech.whitened(below)[0]
        pass_on(params, i, np.stack([np.zeros_like(samples), samples]), slope)
    params["output_conv"]["kernel"][:] = params["output_conv"]["bias"][:] = 0
    params["output_conv"]["kernel"][-1, :2, 0] = halves(np.array([speech.rms]), LAST_SLOPE)
    return variables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="model folder to write")
    parser.add_argument("--vocoder", choices=VOCODERS, default="v2")
    parser.add_argument("--start", default=MODEL.name, help="model to start from (default: %(default)s)")
    parser.add_argument("--sparse", action="store_true", help="leave out weights that change nothing until trained")
    options = parser.parse_args()
    try:
        config, start = weights.load_model(weights.find_model(options.start))
        if config != MODEL:
            raise AdjaxError(f"{options.start}: not a model of scripts/transform_start.py")
        model = read_config(CONFIGS / f"symad48_transform_{options.vocoder}.py").model
        variables = vocoder_of(start, model, options.sparse)
        weights.save_model(options.output, model, variables, "sparse" if options.sparse else "float32")
    except AdjaxError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
