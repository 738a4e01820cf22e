"""Writes a symAD at 48 kHz whose layers are a transform coder, for `adjax train configs/symad48_transform.py`.

Usage: python scripts/transform_start.py OUT --speech FOLDER [FOLDER ...]

symAD has no activation between its strided convolutions, so that linear transforms fit in them as they are. Samples are
passed on by each level as the DCT of its hop, whitened by the spectrum of speech; the projector takes the lowest MDCT
bins of the last two hops, which the decoder's first layer gives back, overlapped and added, a hop late. Above these
bins only the levels of bands are coded: |x| is ELU(x) + ELU(-x), and a logarithm a sum of saturations 1 - exp(-a x).
The decoder makes noise of these levels: signs of random mixtures of the low bands, times the exponential that ELU is
below 0. All other weights start as usual, with residual branches that add nothing. --speech gives the mean of each
level and the gain of each band's noise.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from adjax import dsp, weights
from adjax.cli.training import read_config
from adjax.config import ConvEncoder
from adjax.errors import AdjaxError
from adjax.evaluate.systems import read_audio
from adjax.models import codec
from adjax.train.data import find_audio

MODEL = read_config(Path(__file__).resolve().parent.parent / "configs/symad48_transform.py").model
HOP, RATE_HZ = MODEL.hop_samples, MODEL.sample_rate_hz
assert isinstance(MODEL.encoder, ConvEncoder)
STRIDES = MODEL.encoder.strides
HOPS = np.cumprod((1, *STRIDES))  # samples a frame at each level
BLOCK = int(HOPS[3])  # the level that finds levels and makes noise: its bins are 400 Hz wide
LOWEST = 28  # MDCT bins of the whole hop that are coded, up to 2.2 kHz
EDGES = np.array([6, 7, 8, 9, 10, 12, 14, 16, 18, 21, 24, 28, 32, 37, 43, 50, 60])  # of bands, in bins of a block
BANDS, FIRST = len(EDGES) - 1, int(EDGES[0])
NOISY = BLOCK - FIRST  # bins of a block that are noise
BAND_OF = np.repeat(np.arange(BANDS), np.diff(EDGES))
SATURATIONS = 4.0 ** -np.arange(7)  # rates of a logarithm to base 4
SENSITIVITY = 1500.0  # bins over their RMS are multiplied by this, so that the logarithm begins at -63 dB
CLEAR = 50.0  # random mixtures are multiplied by this before their sign is taken
DEEPEST = 12.0  # how far below 0, as ELU's argument, the lowest level lies

# Channels at the level of blocks. Encoder: DCT, bins and their negatives, mixtures, levels. Decoder: DCT, levels,
# mixtures whose signs are taken, these signs, bins of noise, mixtures, the constant 1.
PLUS, MINUS = slice(BLOCK, BLOCK + NOISY), slice(BLOCK + NOISY, BLOCK + 2 * NOISY)
FOUND = slice(256 - BANDS, 256)
LEVEL = slice(BLOCK, BLOCK + BANDS)
MIXED = slice(LEVEL.stop, LEVEL.stop + NOISY)
SIGN = slice(MIXED.stop, MIXED.stop + NOISY)
NOISE = slice(SIGN.stop, SIGN.stop + NOISY)
ONE = 255
TOP_LEVEL = slice(HOP, HOP + BANDS)  # of the features at the frame rate, in encoder and decoder
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
    """MDCT basis [2 * block, bins of noise] of a block and the one before, under Vorbis's window: it leaks little."""
    n = np.arange(2 * BLOCK)
    window = np.sin(np.pi / 2 * np.sin(np.pi * (n + 0.5) / (2 * BLOCK)) ** 2)
    return dsp.lapped_bases(window)[0][:, FIRST:]


def latent_scale(speech: Speech) -> np.ndarray:
    """Of the coded bins: over their RMS, and weighted less at high frequencies."""
    bins_hz = (np.arange(LOWEST) + 0.5) * RATE_HZ / (2 * HOP)
    return (1 + bins_hz / 700) ** -0.5 / speech.sigma[:LOWEST]


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


def start_encoder(params: Tree, speech: Speech, rng: np.random.Generator) -> None:
    """Writes a transform coder's analysis into the encoder's and projector's parameters."""
    encoder = params["encoder"]
    first = encoder["conv"]["kernel"]
    first[:] = rng.normal(size=first.shape) / (speech.rms * np.sqrt(7))
    first[:, 0, 0] = 0
    first[-1, 0, 0] = 1 / speech.rms
    for i, stride in enumerate(STRIDES):
        block = encoder[f"conv_blocks_{i}"]
        kernel, (below, here) = block["conv"]["kernel"], HOPS[i : i + 2]
        kernel[:] = rng.normal(size=kernel.shape) / np.sqrt(kernel.shape[0] * kernel.shape[1])
        kernel[:, :, :here] = 0
        block["conv"]["bias"][:] = 0
        forward, backward = speech.whitened(here)[0].reshape(stride, below, here), speech.whitened(below)[1]
        kernel[stride:, :below, :here] = backward @ forward
        still_units(block)

    found, logarithm, _ = still_units(encoder["conv_blocks_3"], PLUS, MINUS, FOUND)
    kernel, basis, size = encoder["conv_blocks_2"]["conv"]["kernel"], block_basis(), HOPS[2]
    bins = (basis / speech.rms_of(basis)).reshape(-1, size, NOISY)
    kernel[:, :, PLUS.start : MINUS.stop] = kernel[:, :, FOUND] = 0
    kernel[:, :size, PLUS] = SENSITIVITY * (speech.whitened(size)[1] @ bins)
    kernel[:, :size, MINUS] = -kernel[:, :size, PLUS]

    average = (BAND_OF[:, None] == np.arange(BANDS)) / np.diff(EDGES)
    found[0][:, :, :BANDS] = 0
    found[0][:, PLUS, :BANDS] = found[0][:, MINUS, :BANDS] = average / 7
    found[1][:BANDS, FOUND] = np.eye(BANDS)
    rates = (*-SATURATIONS, 1.0)  # the last takes the level itself away
    logarithm[0][:, :, : len(rates) * BANDS] = 0
    for i, rate in enumerate(rates):
        here = slice(i * BANDS, (i + 1) * BANDS)
        logarithm[0][-1, FOUND, here] = rate * np.eye(BANDS)
        logarithm[1][here, FOUND] = -np.eye(BANDS)

    kernel = encoder["conv_blocks_3"]["conv"]["kernel"]
    kernel[:, PLUS.start : MINUS.stop] = kernel[:, FOUND] = kernel[:, :, TOP_LEVEL] = 0
    window = np.sin(np.pi * (np.arange(7) + 0.5) / 7) ** 2
    kernel[3:, FOUND, TOP_LEVEL] = (window / window.sum())[:, None, None] * np.eye(BANDS)

    kernel = params["projector"]["kernel"]
    kernel[:] = 0
    analysis = dsp.analysis_kernel(HOP)[..., :LOWEST] * latent_scale(speech)
    kernel[1:, :HOP, :LOWEST] = speech.whitened(HOP)[1] @ analysis
    kernel[-1, TOP_LEVEL, -BANDS:] = np.log(4) * np.eye(BANDS)


def start_decoder(params: Tree, speech: Speech, rng: np.random.Generator) -> None:
    """Writes a transform coder's synthesis, and noise above it, into the decoder's parameters."""
    decoder = params["decoder"]
    kernel = decoder["conv1"]["kernel"]
    kernel[:] = rng.normal(size=kernel.shape) / np.sqrt(kernel.shape[0] * kernel.shape[1])
    kernel[:, :, : TOP_LEVEL.stop] = kernel[:, -BANDS:] = 0
    synthesis = dsp.synthesis_kernel(HOP)[:, :LOWEST] / latent_scale(speech)[:, None]
    kernel[-2:, :LOWEST, :HOP] = synthesis @ speech.whitened(HOP)[0]
    kernel[-1, -BANDS:, TOP_LEVEL] = np.eye(BANDS) / np.log(4)
    for i, stride in enumerate(reversed(STRIDES)):
        block, below, here = decoder[f"conv_blocks_{i}"], HOPS[3 - i], HOPS[4 - i]
        kernel = block["conv"]["kernel"].reshape(2, -1, stride, block["conv"]["bias"].size)
        kernel[:] = rng.normal(size=kernel.shape) / np.sqrt(2 * kernel.shape[1])
        kernel[..., :below] = 0
        block["conv"]["bias"][:] = 0
        backward = speech.whitened(here)[1].reshape(here, stride, below)
        kernel[1, :here, :, :below] = backward @ speech.whitened(below)[0]
        still_units(block)
    decoder["conv2"]["kernel"][:] = 0
    decoder["conv2"]["kernel"][-1, 0, 0] = speech.rms

    block = decoder["conv_blocks_0"]
    (signs, noise, _), stride = still_units(block, slice(LEVEL.start, NOISE.stop), slice(ONE, None)), STRIDES[3]
    kernel = block["conv"]["kernel"].reshape(2, -1, stride, 256)
    kernel[..., LEVEL.start : NOISE.stop] = kernel[..., ONE] = 0
    block["conv"]["bias"][ONE] = 1
    for j in range(stride):  # levels by linear interpolation from frame to frame
        share = (j + 0.5) / stride
        kernel[0, TOP_LEVEL, j, LEVEL] = (1 - share) * np.eye(BANDS)
        kernel[1, TOP_LEVEL, j, LEVEL] = share * np.eye(BANDS)
    heard = LOWEST + FIRST  # features in which the coded bins are
    kernel[:, :heard, :, MIXED] = CLEAR * rng.choice([-1, 1], (2, heard, stride, NOISY)) / np.sqrt(2 * heard)

    signs[0][:, :, :NOISY] = 0
    signs[0][-1, MIXED, :NOISY] = -np.eye(NOISY)
    signs[1][:NOISY, SIGN] = np.eye(NOISY)
    noise[0][:, :, : 2 * NOISY] = 0
    for half, sign in ((slice(NOISY), 1.0), (slice(NOISY, 2 * NOISY), -1.0)):
        noise[0][-1, LEVEL, half] = np.log(4) * (np.arange(BANDS)[:, None] == BAND_OF)
        noise[0][-1, ONE, half] = -DEEPEST
        noise[0][-1, SIGN, half] = sign / 2 * np.eye(NOISY)
        noise[1][half, NOISE] = sign * 50 * np.eye(NOISY)

    size, stride = HOPS[2], STRIDES[2]
    kernel = decoder["conv_blocks_1"]["conv"]["kernel"].reshape(2, 256, stride, 128)
    kernel[:, BLOCK:] = 0
    basis = block_basis()
    rows = (basis * speech.rms_of(basis)).reshape(2, stride, size, NOISY)
    kernel[:, NOISE, :, :size] = np.einsum("ajsn,sc->anjc", rows[::-1], speech.whitened(size)[0])


def block_amplitudes(audio: np.ndarray) -> np.ndarray:
    """Magnitudes [batch, blocks - 1, bins of noise] of audio [batch, samples], a whole number of blocks."""
    blocks = audio.reshape(len(audio), -1, BLOCK)
    return abs(np.concatenate([blocks[:, :-1], blocks[:, 1:]], axis=-1) @ block_basis()) + 1e-7


def fit_levels(variables: Tree, audio: np.ndarray) -> None:
    """Sets each level's mean and the gain of each band's noise by audio [batch, samples, 1]."""
    params, delay = variables["params"], MODEL.delay_samples
    mean = np.asarray(latents(variables, audio))[..., -BANDS:].mean(axis=(0, 1)) / np.log(4)
    params["encoder"]["conv_blocks_3"]["conv"]["bias"][TOP_LEVEL] -= mean
    params["decoder"]["conv_blocks_0"]["conv"]["bias"][LEVEL] += mean
    coded, natural = latents(variables, audio), block_amplitudes(audio[:, :-delay, 0])
    gains = params["decoder"]["conv_blocks_0"]["res_units_1"]["conv2"]["kernel"].reshape(256, 256)
    for _ in range(3):  # bands leak into each other
        made = block_amplitudes(np.asarray(decoded(variables, coded))[:, delay:, 0])
        for band in range(BANDS):
            bins = np.flatnonzero(np.equal(BAND_OF, band))
            level = natural[..., bins].mean(axis=-1)
            loud = level > np.median(level)
            ratio = np.exp(np.mean(np.log(natural[..., bins][loud] / made[..., bins][loud])))
            gains[: 2 * NOISY, NOISE.start + bins] *= ratio


def started(audio: np.ndarray) -> Tree:
    """A model's variables that start as a transform coder, its levels fitted to audio [batch, samples, 1]."""
    spectral = weights.load_model(weights.find_model("spectral48"))[1]
    speech = Speech(np.asarray(spectral["stats"]["encoder"]["sigma"], np.float64))
    variables = jax.tree.map(np.array, codec.init(MODEL, jax.random.key(0)))
    rng = np.random.default_rng(0)
    start_encoder(variables["params"], speech, rng)
    start_decoder(variables["params"], speech, rng)
    fit_levels(variables, audio)
    return variables


def crops(sources: list[str], count: int, samples: int) -> np.ndarray:
    """The middle of `count` files spread over the sources, float32[count, samples, 1]."""
    taken: list[np.ndarray] = []
    files = find_audio(sources)
    for path in files[:: max(1, len(files) // (2 * count))]:
        audio, rate_hz = read_audio(path)
        if rate_hz == RATE_HZ and len(audio) > samples:
            start = (len(audio) - samples) // 2
            taken.append(audio[start : start + samples, :1])
        if len(taken) == count:
            break
    if not taken:
        raise AdjaxError(f"no file of {RATE_HZ} Hz and {samples / RATE_HZ:g} s in {', '.join(sources)}")
    return np.stack(taken).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="model folder to write")
    parser.add_argument("--speech", nargs="+", required=True, help="speech at 48 kHz: folders, files or lists")
    options = parser.parse_args()
    try:
        variables = started(crops(options.speech, 24, 2 * RATE_HZ))
        weights.save_model(options.output, MODEL, variables)
    except AdjaxError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
