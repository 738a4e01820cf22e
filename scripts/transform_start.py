"""Writes a symAD at 48 kHz whose layers are a transform coder, for `adjax train configs/symad48_transform.py`.

Usage: python scripts/transform_start.py OUT [--speech FOLDER ...] [--sparse | --whole]

symAD has no activation between its strided convolutions, so that linear transforms fit in them as they are. Samples are
passed on by each level as the DCT of its hop, whitened by the spectrum of speech; the projector takes the lowest MDCT
bins of the last two hops, which the decoder's first layer gives back, overlapped and added, a hop late. Residual units
find levels: |x| is ELU(x) + ELU(-x), and a logarithm a sum of saturations 1 - exp(-a x). They multiply too: e^level
times x is (e^(level + x) - e^(level - x)) / 2 for a small x, and the exponential is ELU below 0. Thus the encoder makes
what is coded alike in loudness, and the decoder undoes it by a level that is coded beside it, each in the lowest MDCT
bins of blocks, a block late. Above these bins only the levels of bands are coded, of which the decoder makes noise:
signs of random mixtures of the low bands, times e to a linear map of the levels. All other weights of the decoder start
as usual, with residual branches that add nothing, and those before it, which the configuration does not train, as
zeros; --whole: they as usual, too; --sparse: all as zeros, as in the package's symad48-transform. --speech gives
the mean of each level, the loudness of noise by the levels, and the codebooks, by k-means; without it they are
that model's.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import soxr

from adjax import dsp, weights, zoo
from adjax.config import ConvEncoder, ModelConfig
from adjax.errors import AdjaxError
from adjax.evaluate.systems import read_audio
from adjax.models import codec
from adjax.nn.quantize import CODEBOOK, Codebooks, ResidualQuantizer, kmeans_start, prediction_factors
from adjax.train.data import find_audio

MODEL = zoo.symad48_transform
HOP, RATE_HZ = MODEL.hop_samples, MODEL.sample_rate_hz
assert isinstance(MODEL.encoder, ConvEncoder)
STRIDES = MODEL.encoder.strides
HOPS = np.cumprod((1, *STRIDES))  # samples a frame at each level
SHARES = (np.arange(STRIDES[3]) + 0.5) / STRIDES[3]  # of the newer frame in a level of each of the frame's blocks
BLOCK = int(HOPS[3])  # the level that finds levels and makes noise: its bins are 400 Hz wide
LOWEST = 24  # MDCT bins of the whole hop that are coded, up to 1.9 kHz
# Edges of bands, in bins of a block: 50 is 20 kHz, where many recordings end.
EDGES = np.array([5, 6, 7, 8, 9, 10, 12, 14, 17, 20, 24, 28, 33, 38, 44, 50, 60])
BANDS, FIRST = len(EDGES) - 1, int(EDGES[0])
NOISY = BLOCK - FIRST  # bins of a block that are noise
BAND_OF = np.repeat(np.arange(BANDS), np.diff(EDGES))
CODED = 6  # bins of a block that have all that is coded
LEVELS = BANDS + 1  # the last one is of what is coded
SATURATIONS = 4.0 ** -np.arange(7)  # rates of a logarithm to base 4
SENSITIVITY = 1500.0  # bins over their RMS are multiplied by this, so that the logarithm begins at -63 dB
CLEAR = 50.0  # random mixtures are multiplied by this before their sign is taken
DEEPEST = 12.0  # how far below 0, as ELU's argument, the lowest level lies
LEVEL_WEIGHTS = np.array([0.25] * BANDS + [2.0])  # of levels, as natural logarithms, among the latents
RIDGE = 0.01  # of the levels' variance, where noise is predicted from all of them
FLOOR = 0.1  # of the RMS: coded bins are not amplified further below
SHARE = 0.7  # of its level, in dB, that is taken out of what is coded
OFFSET = 64.0  # channels that are to pass ELU as they are lie above 0 by this

# Channels at the level of blocks. Encoder: bins that are coded, DCT, bins and their negatives, levels, the constant 1.
# Decoder: coded bins, levels, mixtures whose signs are taken, these signs, bins of noise, mixtures, the constant 1.
PLUS, MINUS = slice(BLOCK, 2 * BLOCK), slice(2 * BLOCK, 3 * BLOCK)
ONE = 255
FOUND = slice(ONE - LEVELS, ONE)
LEVEL = slice(BLOCK, BLOCK + LEVELS)
MIXED = slice(LEVEL.stop, LEVEL.stop + NOISY)
SIGN = slice(MIXED.stop, MIXED.stop + NOISY)
NOISE = slice(SIGN.stop, SIGN.stop + NOISY)
TOP_LEVEL = slice(HOP, HOP + LEVELS)  # of the features at the frame rate, in encoder and decoder
SLOPE = SHARE * np.log(4)
UNCHANGED = float(np.exp(SLOPE * np.sum(1 - np.exp(-SATURATIONS * 0.8 / FLOOR))))  # what is at its RMS is not amplified
SPEEDS = (0.9, 1.1)  # at which speech is played too, for codebooks: more voices
PIECES = 2400  # of two seconds, for codebooks, at most
Tree = dict[str, Any]
NET = codec.Codec(MODEL)


@jax.jit
def latents(variables: Tree, audio: jax.Array | np.ndarray) -> jax.Array:
    """Unquantized latents [batch, frames, dim] of audio [batch, samples, 1]."""
    return cast(jax.Array, NET.apply(variables, audio, method="latents"))


@jax.jit
def decoded(variables: Tree, zq: jax.Array | np.ndarray) -> jax.Array:
    """Audio [batch, samples, 1] of latents [batch, frames, dim]."""
    return cast(jax.Array, NET.apply(variables, zq, method="decode_latents"))


@jax.jit
def quantized(embed: jax.Array, z: jax.Array | np.ndarray) -> jax.Array:
    """Latents z[batch, frames, dim] as decoded from codes of greedy search."""
    quantizer, books = ResidualQuantizer(replace(MODEL.quantizer, beams=1)), {CODEBOOK: {"embed": embed}}
    codes = quantizer.apply(books, z, method="encode")
    return cast(jax.Array, quantizer.apply(books, codes, method="decode"))


class Speech:
    """Second moments of speech by the RMS of its MDCT bins, and the transforms that they whiten."""

    def __init__(self, sigma: np.ndarray) -> None:
        radians = (np.arange(HOP) + 0.5) * np.pi / HOP
        self.sigma = sigma
        self._correlation = np.mean(sigma**2 * np.cos(np.arange(HOP)[:, None] * radians), axis=1)
        self.rms = float(np.sqrt(self._correlation[0]))

    def rms_of(self, basis: np.ndarray) -> np.ndarray:
        """RMS of the coefficients of basis[samples, coefficients]."""
        index = np.arange(len(basis))
        covariance = self._correlation[abs(index[:, None] - index)]
        return np.sqrt(np.einsum("ik,ij,jk->k", basis, covariance, basis).clip(1e-14))

    def whitened(self, samples: int) -> tuple[np.ndarray, np.ndarray]:
        """Matrices [samples, samples] of x @ forward and y @ backward: a DCT over its RMS, and back."""
        n = np.arange(samples)
        dct = np.sqrt(2 / samples) * np.cos(np.pi / samples * (n[:, None] + 0.5) * n)
        dct[:, 0] /= np.sqrt(2)
        rms = self.rms_of(dct)
        return dct / rms, (dct * rms).T


def block_basis() -> np.ndarray:
    """MDCT basis [2 * block, bins] of a block and the one before, under Vorbis's window: it leaks little."""
    n = np.arange(2 * BLOCK)
    window = np.sin(np.pi / 2 * np.sin(np.pi * (n + 0.5) / (2 * BLOCK)) ** 2)
    return dsp.lapped_bases(window)[0]


def latent_scale(speech: Speech) -> np.ndarray:
    """Of the coded bins: over their RMS, and weighted less at high frequencies."""
    bins_hz = (np.arange(LOWEST) + 0.5) * RATE_HZ / (2 * HOP)
    return (1 + bins_hz / 700) ** -1 / speech.sigma[:LOWEST]


def still_units(block: Tree, *hidden: slice) -> list[tuple[np.ndarray, np.ndarray]]:
    """Makes a block's residual units add nothing and not look at the channels `hidden`.

    Gives the two kernels of each unit, [7, channels, channels] and [channels, channels], to be written to.
    """
    kernels = []
    for unit in (block[f"res_units_{i}"] for i in range(3)):
        first, last = unit["conv1"]["kernel"], unit["conv2"]["kernel"]
        last[:] = 0
        for channels in hidden:
            first[:, channels] = 0
        kernels.append((first, last.reshape(last.shape[-2:])))
    return kernels


def multiply(unit: tuple[np.ndarray, np.ndarray], level: int, slope: float, most: float, gain: float) -> None:
    """Makes a residual unit multiply the channels CODED, OFFSET above 0, by gain * exp(slope * level).

    That is the difference of exp(slope * level + x) and exp(slope * level - x) for a small x; `level` is a channel, and
    `most` is what the exponent stays below.
    """
    first, last = unit
    small = 1 / 32
    plus, minus, linear = (slice(i * CODED, (i + 1) * CODED) for i in range(3))
    first[:, :, : linear.stop] = 0
    for half, sign in ((plus, small), (minus, -small)):
        first[-1, level, half] = slope
        first[-1, :CODED, half] = sign * np.eye(CODED)
        first[-1, ONE, half] = -most - sign * OFFSET
        last[half, :CODED] = gain * np.exp(most) / (2 * sign) * np.eye(CODED)
    first[-1, :CODED, linear] = np.eye(CODED)
    last[linear, :CODED] = -np.eye(CODED)


def draw(kernel: np.ndarray, fan_in: float, rng: np.random.Generator | None) -> None:
    """Random weights, for the channels that nothing is written to; without rng, none."""
    kernel[:] = 0 if rng is None else rng.normal(size=kernel.shape) / np.sqrt(fan_in)


def start_encoder(params: Tree, speech: Speech, rng: np.random.Generator | None) -> None:
    """Writes a transform coder's analysis into the encoder's and projector's parameters."""
    encoder = params["encoder"]
    first = encoder["conv"]["kernel"]
    draw(first, 7 * speech.rms**2, rng)
    first[:, 0, 0] = 0
    first[-1, 0, 0] = 1 / speech.rms
    for i, stride in enumerate(STRIDES):
        block = encoder[f"conv_blocks_{i}"]
        kernel, (below, here) = block["conv"]["kernel"], HOPS[i : i + 2]
        draw(kernel, kernel.shape[0] * kernel.shape[1], rng)
        kernel[:, :, :here] = 0
        block["conv"]["bias"][:] = 0
        forward, backward = speech.whitened(here)[0].reshape(stride, below, here), speech.whitened(below)[1]
        kernel[stride:, :below, :here] = backward @ forward
        still_units(block)

    found, logarithm, amplifier = still_units(
        encoder["conv_blocks_3"], slice(CODED), PLUS, MINUS, slice(FOUND.start, None)
    )
    kernel, basis, size = encoder["conv_blocks_2"]["conv"]["kernel"], block_basis(), HOPS[2]
    bins = (basis / speech.rms_of(basis)).reshape(-1, size, BLOCK)
    kernel[:, :, :CODED] = kernel[:, :, PLUS.start : MINUS.stop] = kernel[:, :, FOUND.start :] = 0
    kernel[:, :size, PLUS] = SENSITIVITY * (speech.whitened(size)[1] @ bins)
    kernel[:, :size, MINUS] = -kernel[:, :size, PLUS]
    kernel[:, :size, :CODED] = kernel[:, :size, PLUS][..., :CODED] / SENSITIVITY
    bias = encoder["conv_blocks_2"]["conv"]["bias"]
    bias[:CODED], bias[ONE] = OFFSET, 1

    average = np.zeros((BLOCK, LEVELS))
    average[FIRST:, :BANDS] = (BAND_OF[:, None] == np.arange(BANDS)) / np.diff(EDGES)
    average[:CODED, BANDS] = 1 / (CODED * SENSITIVITY * FLOOR)
    found[0][:, :, :LEVELS] = 0
    found[0][:, PLUS, :LEVELS] = found[0][:, MINUS, :LEVELS] = average / 7
    found[1][:LEVELS, FOUND] = np.eye(LEVELS)
    rates = (*-SATURATIONS, 1.0)  # the last takes the level itself away
    logarithm[0][:, :, : len(rates) * LEVELS] = 0
    for i, rate in enumerate(rates):
        here = slice(i * LEVELS, (i + 1) * LEVELS)
        logarithm[0][-1, FOUND, here] = rate * np.eye(LEVELS)
        logarithm[1][here, FOUND] = -np.eye(LEVELS)
    multiply(amplifier, FOUND.stop - 1, -SLOPE, 0.0, UNCHANGED)

    kernel = encoder["conv_blocks_3"]["conv"]["kernel"]
    kernel[:, :, :HOP] = kernel[:, PLUS.start : MINUS.stop] = kernel[:, FOUND.start :] = kernel[:, :, TOP_LEVEL] = 0
    lapped = (basis * speech.rms_of(basis))[:, :CODED].T.reshape(CODED, 2, BLOCK).swapaxes(0, 1)
    forward, stride = speech.whitened(HOP)[0].reshape(-1, BLOCK, HOP), STRIDES[3]
    kernel[stride:, :CODED, :HOP] += lapped[0] @ forward  # each block by the bins of two, a block late
    kernel[stride - 1 : -1, :CODED, :HOP] += lapped[1] @ forward
    window = np.sin(np.pi * (np.arange(8) + 0.5) / 8) ** 2
    window = (window / window.sum())[:, None]
    kernel[2:, FOUND.start + np.arange(BANDS), TOP_LEVEL.start + np.arange(BANDS)] = window
    kernel[:8, FOUND.stop - 1, TOP_LEVEL.stop - 1] = window[:, 0]  # the decoder's interpolation follows the amplifier

    kernel = params["projector"]["kernel"]
    kernel[:] = 0
    analysis = dsp.analysis_kernel(HOP)[..., :LOWEST] * latent_scale(speech)
    kernel[1:, :HOP, :LOWEST] = speech.whitened(HOP)[1] @ analysis
    kernel[-1, TOP_LEVEL, -LEVELS:] = np.diag(LEVEL_WEIGHTS * np.log(4))


def start_decoder(params: Tree, speech: Speech, rng: np.random.Generator | None) -> None:
    """Writes a transform coder's synthesis, and noise above it, into the decoder's parameters."""
    decoder, basis = params["decoder"], block_basis()
    kernel = decoder["conv1"]["kernel"]
    draw(kernel, kernel.shape[0] * kernel.shape[1], rng)
    kernel[:, :, : TOP_LEVEL.stop] = kernel[:, -LEVELS:] = 0
    synthesis = dsp.synthesis_kernel(HOP)[:, :LOWEST] / latent_scale(speech)[:, None]
    kernel[-2:, :LOWEST, :HOP] = synthesis @ speech.whitened(HOP)[0]
    kernel[-1, -LEVELS:, TOP_LEVEL] = np.diag(1 / (LEVEL_WEIGHTS * np.log(4)))
    for i, stride in enumerate(reversed(STRIDES)):
        block, below, here = decoder[f"conv_blocks_{i}"], HOPS[3 - i], HOPS[4 - i]
        kernel = block["conv"]["kernel"].reshape(2, -1, stride, block["conv"]["bias"].size)
        draw(kernel, 2 * kernel.shape[1], rng)
        kernel[..., :below] = 0
        block["conv"]["bias"][:] = 0
        if i == 0:
            start_blocks(block, kernel, speech, rng)
            continue
        still_units(block)
        if i == 1:
            kernel[:, LEVEL.start : MIXED.stop] = kernel[:, ONE] = 0
            rows = (basis * speech.rms_of(basis)).reshape(2, stride, below, BLOCK)[::-1]
            rows = np.einsum("ajsn,sc->anjc", rows, speech.whitened(below)[0])
            kernel[:, :CODED, :, :below], kernel[:, NOISE, :, :below] = rows[:, :CODED], rows[:, FIRST:]
        else:
            backward = speech.whitened(here)[1].reshape(here, stride, below)
            kernel[1, :here, :, :below] = backward @ speech.whitened(below)[0]
    decoder["conv2"]["kernel"][:] = 0
    decoder["conv2"]["kernel"][-1, 0, 0] = speech.rms


def start_blocks(block: Tree, kernel: np.ndarray, speech: Speech, rng: np.random.Generator | None) -> None:
    """Writes the decoder's first block, its strided kernel [2, features, stride, channels]: coded bins and noise."""
    signs, noise, amplifier = still_units(block, slice(CODED), slice(LEVEL.start, NOISE.stop), slice(ONE, None))
    stride, bias, basis = kernel.shape[2], block["conv"]["bias"], block_basis()
    kernel[..., LEVEL.start : NOISE.stop] = kernel[..., ONE] = 0
    bias[:CODED], bias[ONE] = OFFSET, 1
    bins = (basis / speech.rms_of(basis))[:, :CODED].reshape(2, BLOCK, CODED)
    samples = speech.whitened(HOP)[1].reshape(HOP, stride, BLOCK).swapaxes(0, 1)
    for j in range(stride):  # levels by linear interpolation from frame to frame
        kernel[1, :HOP, j, :CODED] = samples[j] @ bins[1]
        kernel[1 if j else 0, :HOP, j, :CODED] += samples[j - 1] @ bins[0]
        kernel[0, TOP_LEVEL, j, LEVEL] = (1 - SHARES[j]) * np.eye(LEVELS)
        kernel[1, TOP_LEVEL, j, LEVEL] = SHARES[j] * np.eye(LEVELS)
    heard = LOWEST + FIRST  # features in which the coded bins are
    mixtures = (rng or np.random.default_rng(0)).choice([-1, 1], (2, heard, stride, NOISY))
    kernel[:, :heard, :, MIXED] = CLEAR * mixtures / np.sqrt(2 * heard)

    signs[0][:, :, :NOISY] = 0
    signs[0][-1, MIXED, :NOISY] = -np.eye(NOISY)
    signs[1][:NOISY, SIGN] = np.eye(NOISY)
    noise[0][:, :, : 2 * NOISY] = 0
    for half, sign in ((slice(NOISY), 1.0), (slice(NOISY, 2 * NOISY), -1.0)):
        noise[0][-1, ONE, half] = -DEEPEST
        noise[0][-1, SIGN, half] = sign / 2 * np.eye(NOISY)
        noise[1][half, NOISE] = sign * 50 * np.eye(NOISY)
    multiply(amplifier, LEVEL.stop - 1, SLOPE, SLOPE * len(SATURATIONS) + 1, 1 / UNCHANGED)


def log_amplitudes(audio: np.ndarray) -> np.ndarray:
    """Natural logarithm of magnitudes [batch, blocks - 1, bins of noise] of audio [batch, samples], whole blocks."""
    blocks = audio.reshape(len(audio), -1, BLOCK)
    bins = np.concatenate([blocks[:, :-1], blocks[:, 1:]], axis=-1) @ block_basis()[:, FIRST:]
    return np.log(abs(bins) + 1e-7)


def mean_spectrum(audio: np.ndarray) -> np.ndarray:
    """Mean natural logarithm of STFT magnitudes of audio [batch, samples] around each bin of noise, [bins]."""
    magnitudes = abs(np.asarray(dsp.stft(jnp.asarray(audio), 16 * BLOCK, 4 * BLOCK)))[..., 8 * FIRST : 8 * BLOCK]
    return np.log(magnitudes + 1e-5).mean(axis=(0, 1)).reshape(NOISY, 8).mean(axis=1)


def fit_levels(variables: Tree, audio: np.ndarray) -> None:
    """Sets each level's mean, and how loud noise is in each bin by all levels, by audio [batch, samples, 1]."""
    delay, block = MODEL.delay_samples, variables["params"]["decoder"]["conv_blocks_0"]
    levels = np.asarray(latents(variables, audio))[..., -LEVELS:] / (LEVEL_WEIGHTS * np.log(4))
    mean = levels.mean(axis=(0, 1))
    variables["params"]["encoder"]["conv_blocks_3"]["conv"]["bias"][TOP_LEVEL] -= mean
    block["conv"]["bias"][LEVEL] += mean

    newer = SHARES[:, None]
    known = (1 - newer) * levels[:, :-1, None] + newer * levels[:, 1:, None]  # as the decoder interpolates them
    known = known.reshape(len(audio), -1, LEVELS)[:, delay // BLOCK - len(SHARES) :]
    natural = log_amplitudes(audio[..., 0])[:, : known.shape[1]].reshape(-1, NOISY)
    known = known.reshape(-1, LEVELS) - known.mean(axis=(0, 1))
    squares = known.T @ known
    squares += RIDGE * np.trace(squares) / LEVELS * np.eye(LEVELS)
    noise = [block["res_units_1"][name]["kernel"] for name in ("conv1", "conv2")]
    noise[0][-1, LEVEL, : 2 * NOISY] = np.tile(np.linalg.solve(squares, known.T @ natural), 2)
    gains = noise[1].reshape(256, 256)[: 2 * NOISY, NOISE]
    natural, coded = mean_spectrum(audio[:, :-delay, 0]), latents(variables, audio)
    for _ in range(3):  # bins leak into each other
        gains *= np.exp(natural - mean_spectrum(decoded(variables, coded)[:, delay:, 0]))


def any_speech() -> Speech:
    """Of the speech that spectral48 was trained on."""
    spectral = weights.load_model(weights.find_model("spectral48"))[1]
    return Speech(np.asarray(spectral["stats"]["encoder"]["sigma"], np.float64))


def blank(model: ModelConfig, sparse: bool) -> Tree:
    """A model's variables as training starts with them or, if sparse, all 0."""
    if not sparse:
        return jax.tree.map(np.array, codec.init(model, jax.random.key(0)))
    shapes = jax.eval_shape(lambda: codec.init(model, jax.random.key(0)))
    return jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)


def unfitted(sparse: bool) -> Tree:
    """A transform coder's variables, its levels and codebooks not fitted yet."""
    speech, variables = any_speech(), blank(MODEL, sparse)
    rng = None if sparse else np.random.default_rng(0)
    start_encoder(variables["params"], speech, rng)
    start_decoder(variables["params"], speech, rng)
    return variables


def started(audio: np.ndarray) -> Tree:
    """A sparse transform coder's variables, its levels fitted to audio [batch, samples, 1]."""
    variables = unfitted(sparse=True)
    fit_levels(variables, audio)
    return variables


def filled(variables: Tree, parts: Collection[str]) -> Tree:
    """The variables of a sparse transform coder, in some parts with random weights where they change nothing."""
    full = unfitted(sparse=False)
    params = {
        part: jax.tree.map(lambda x, other: np.where(x, x, other), tree, full["params"][part])
        if part in parts
        else tree
        for part, tree in variables["params"].items()
    }
    return {**full, **variables, "params": params}


def crops(sources: list[str], samples: int, speed: float = 1.0) -> np.ndarray:
    """All speech of the sources, played at a speed, in pieces float32[count, samples, 1]."""
    taken: list[np.ndarray] = []
    for path in find_audio(sources):
        audio, rate_hz = read_audio(path)
        if rate_hz == RATE_HZ:
            audio = soxr.resample(audio[:, :1], RATE_HZ * speed, RATE_HZ)
            taken += np.split(audio[: len(audio) // samples * samples], range(samples, len(audio), samples))
    taken = [piece for piece in taken if len(piece)]
    if not taken:
        raise AdjaxError(f"no file of {RATE_HZ} Hz and {samples / RATE_HZ:g} s in {', '.join(sources)}")
    return np.stack(taken).astype(np.float32)


def fit_codebooks(variables: Tree, audio: np.ndarray) -> None:
    """Sets codebooks by k-means on audio [batch, samples, 1], each piece at a loudness of its own.

    Twice: on a part, of differences from the frame before as it is, then on all, from that as it is decoded.
    """
    size, frames = MODEL.quantizer.codebook_size, len(audio) * (audio.shape[1] // HOP - 1)
    if frames < size:
        raise AdjaxError(f"codebooks need {size * HOP / RATE_HZ:.0f} s of speech, better an hour, at {RATE_HZ} Hz")
    gains = 10 ** (np.random.default_rng(0).uniform(-6, 3, (len(audio), 1, 1)) / 20)
    z = np.concatenate([latents(variables, audio[i : i + 8] * gains[i : i + 8]) for i in range(0, len(audio), 8)])
    factors, kmeans = prediction_factors(MODEL.quantizer), jax.jit(kmeans_start, static_argnums=2)

    def fitted(z: np.ndarray, earlier: np.ndarray) -> Codebooks:
        points = (z[:, 1:] - factors * earlier[:, :-1]).reshape(-1, z.shape[-1])
        return kmeans(points, jax.random.key(0), MODEL.quantizer)

    part = z[:: min(4, frames // size)]
    embed = fitted(part, part).embed
    books = fitted(z, np.concatenate([quantized(embed, z[i : i + 64]) for i in range(0, len(z), 64)]))
    variables[CODEBOOK] = {"quantizer": jax.tree.map(np.asarray, books._asdict())}


def fitted(sources: list[str]) -> Tree:
    """A sparse transform coder's variables, its levels and codebooks fitted to speech."""
    audio = np.random.default_rng(0).permutation(crops(sources, 2 * RATE_HZ))
    variables = started(audio[:24])
    played = [crops(sources, 2 * RATE_HZ, speed) for speed in SPEEDS]
    fit_codebooks(variables, np.random.default_rng(0).permutation(np.concatenate([audio, *played]))[:PIECES])
    return variables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="model folder to write")
    parser.add_argument("--speech", nargs="+", help="folders, files or lists; files not of 48 kHz are left out")
    random = parser.add_mutually_exclusive_group()
    random.add_argument("--sparse", action="store_true", help="leave out weights that change nothing until trained")
    random.add_argument("--whole", action="store_true", help="have such weights before the decoder, too")
    options = parser.parse_args()
    if options.sparse and not options.speech:
        parser.error(f"--sparse needs --speech; without, it would copy {MODEL.name}")
    try:
        if options.speech is None:
            variables = weights.load_model(weights.find_model(MODEL.name))[1]
        else:
            variables = fitted(options.speech)
        if options.sparse:  # not to be trained further as it is, so without statistics of its codebooks
            variables[CODEBOOK] = {"quantizer": {"embed": variables[CODEBOOK]["quantizer"]["embed"]}}
        else:
            variables = filled(variables, variables["params"] if options.whole else ("decoder",))
        weights.save_model(options.output, MODEL, variables, "sparse" if options.sparse else "float32")
    except AdjaxError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
