"""A codec ready for use: whole signals, and pure steps with explicit state for streams."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from adjax import kernels as native
from adjax import weights
from adjax.config import ModelConfig, SpectralEncoder
from adjax.errors import AdjaxError
from adjax.kernels import PACKED
from adjax.models import codec as models
from adjax.nn.conv import STREAM, fold_weight_norm, pack_kernels, zero_buffers
from adjax.packed import Packed, pack_batch, pack_constants, views

State = Any  # a pytree whose leaves lead with the batch axis
WARM_SAMPLES = 8192  # zeros that the published streamer feeds before its first chunk


class _Programs(NamedTuple):
    """What is compiled for one direction of one model, a program for each shape."""

    whole: Callable[..., Array]
    step: Callable[..., tuple[State, Array]]
    scan: Callable[..., tuple[State, Array]]
    fresh: Callable[[Any, Array], State]


@lru_cache(maxsize=64)
def _programs(model: Any, method: str) -> _Programs:
    def run(tree: Any, x: Any, **settings: int) -> Array:
        return cast(Array, model.apply(_variables(tree), x, **settings, method=method))

    def advance(
        tree: Any, state: State, x: Any, reset: Any = None, hold: Any = None, **settings: int
    ) -> tuple[State, Array]:
        if reset is not None:
            state = _select(reset, jax.tree.map(jnp.zeros_like, state), state)  # a fresh state is all zeros
        stream = state.views() if isinstance(state, Packed) else state
        y, mutated = model.apply({**_variables(tree), STREAM: stream}, x, **settings, method=method, mutable=[STREAM])
        following = pack_batch(mutated[STREAM]) if isinstance(state, Packed) else mutated[STREAM]
        if hold is None:
            return following, y
        return _select(hold, (state, jnp.zeros_like(y)), (following, y))

    def scan(tree: Any, state: State, x: Array, size: int, **settings: int) -> tuple[State, Array]:
        batch, time = x.shape[:2]
        chunks = jnp.moveaxis(x.reshape(batch, time // size, size, *x.shape[2:]), 1, 0)
        state, y = jax.lax.scan(lambda state, chunk: advance(tree, state, chunk, **settings), state, chunks)
        return state, jnp.moveaxis(y, 0, 1).reshape(batch, -1, y.shape[-1])

    def fresh(tree: Any, example: Array) -> State:
        variables = _variables(tree)
        shapes = jax.eval_shape(lambda: model.apply(variables, example, method=method, mutable=[STREAM])[1][STREAM])
        state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return pack_batch(state) if PACKED in variables else state

    return _Programs(
        jax.jit(run, static_argnames="codebooks"),
        jax.jit(advance, static_argnames="codebooks", donate_argnums=1),
        jax.jit(scan, static_argnums=3, static_argnames="codebooks", donate_argnums=1),
        jax.jit(fresh),
    )


def _variables(tree: dict[str, Any]) -> dict[str, Any]:
    """The collections of a model from what a program is given: all arrays, or what `_pack` made of them."""
    if "weights" not in tree:
        return tree
    variables = {kind: x if kind == PACKED else views(x) for kind, x in tree["weights"].parts().items()}
    for kind, part in tree["quantizer"].items():
        variables[kind] = {**variables.get(kind, {}), "quantizer": part}
    return variables


def _pack(variables: dict[str, Any]) -> dict[str, Any]:
    """The weights of one direction in one array, but for the quantizer's, which its programs take whole."""
    quantizer = {kind: part["quantizer"] for kind, part in variables.items() if "quantizer" in part}
    rest = {kind: {k: v for k, v in part.items() if k != "quantizer"} for kind, part in variables.items()}
    return {"weights": pack_constants(rest), "quantizer": jax.tree.map(jnp.asarray, quantizer)}


def zero_start(state: State) -> State:
    """A fresh state in which transposed convolutions start from a zero frame, as the published streamer does."""
    return pack_batch(zero_buffers(state.views())) if isinstance(state, Packed) else zero_buffers(state)


def _select(mask: Array, chosen: Any, others: Any) -> Any:
    """Stream by stream, one tree or the other."""

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(mask.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, chosen, others)


class Codec:
    """Encoder, quantizer and decoder of a trained model.

    Audio is float32[batch, samples, channels], codes int32[batch, frames, codebooks]. The steps are pure: they run
    under `jax.jit`, `jax.lax.scan`, `jax.vmap` and `jax.pmap`. Called as they are, they donate the state they are
    given: use the one they return. Codes do not depend on how a signal is cut into chunks.
    """

    def __init__(self, config: ModelConfig, variables: weights.Tree, kernels: bool | None = None) -> None:
        """`kernels`: whether convolutions run in adjax.kernels; by default where they can."""
        self.config = config
        self.fingerprint = weights.fingerprint(config, variables)
        embed = {"quantizer": {"embed": variables["codebook"]["quantizer"]["embed"]}}
        tree = {**variables, "params": fold_weight_norm(variables["params"]), "codebook": embed}
        self.num_parameters = sum(x.size for part in ("params", "codebook") for x in jax.tree.leaves(tree[part]))
        self.uses_kernels = native.available() if kernels is None else kernels
        if self.uses_kernels:
            tree["params"], tree[PACKED] = pack_kernels(tree["params"])
            for part, layers in models.fixed_kernels(config).items():
                tree[PACKED][part] |= pack_kernels(layers)[1]
            tree[PACKED]["quantizer"] = native.pack_codebooks(np.asarray(embed["quantizer"]["embed"], np.float32))
        self._model = models.Codec(models.without_weight_norm(config))
        model: Any = self._model  # hashed by its configuration, which type checkers do not see
        self._encoder, self._decoder = _programs(model, "encode"), _programs(model, "decode")
        tree["codebook"] = jax.tree.map(jnp.asarray, embed)  # one copy for both directions
        self._encoder_tree, self._decoder_tree = (
            (_pack if self.uses_kernels else partial(jax.tree.map, jnp.asarray))(
                {kind: {k: v for k, v in part.items() if k in names} for kind, part in tree.items()}
            )
            for names in (("encoder", "projector", "quantizer"), ("decoder", "quantizer"))
        )

    @classmethod
    def load(cls, model: str | os.PathLike[str] | None = None, streams: int = 1, frames: int | None = None) -> Codec:
        """The codec of a model's name or folder; the default model without one. AdjaxError if it cannot be read.

        With `frames`, steps for `streams` streams in chunks of so many frames are compiled at once; see `compile`.
        """
        codec = cls(*weights.load_model(weights.find_model(model)))
        if frames is not None:
            codec.compile(streams, frames)
        return codec

    @property
    def tree(self) -> dict[str, Any]:
        """The variables of the model, as its module takes them."""
        tree: dict[str, Any] = {}
        for direction in (self._encoder_tree, self._decoder_tree):
            for kind, part in _variables(direction).items():
                tree[kind] = {**tree.get(kind, {}), **part}
        return tree

    @property
    def sample_rate(self) -> int:
        """Samples per second of the audio that this model codes."""
        return self.config.sample_rate_hz

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.config.hop_samples

    @property
    def audio_channels(self) -> int:
        """Channels that one stream holds: 1, unless the model codes channels together."""
        return self.config.audio_channels

    @property
    def bitrate(self) -> float:
        """Bits per second with all codebooks."""
        return self.config.bitrate_bps

    @property
    def algorithmic_delay(self) -> int:
        """Samples that must have arrived after a sample before it can be heard, `delay` included, at any chunk size."""
        return self.config.algorithmic_delay_samples

    @property
    def num_codebooks(self) -> int:
        """Codes per frame."""
        return self.config.quantizer.codebooks

    @property
    def codebook_size(self) -> int:
        """Codes are in [0, codebook_size)."""
        return self.config.quantizer.codebook_size

    @property
    def delay(self) -> int:
        """Constant lag, in samples, of decode(encode(x)) behind x that the model's structure brings."""
        return self.config.delay_samples

    def encode(self, audio: Any, codebooks: int | None = None) -> Array:
        """Codes of whole signals; frames = ceil(samples / hop_length), the last hop filled up with zeros.

        With `codebooks`, of so many leading codebooks; where models search by beams or code differences these are
        better codes than the leading ones of all.
        """
        audio, settings = self._audio(audio), self._coding(codebooks)
        missing = -audio.shape[1] % self.hop_length
        return self._encoder.whole(self._encoder_tree, jnp.pad(audio, ((0, 0), (0, missing), (0, 0))), **settings)

    def decode(self, codes: Any) -> Array:
        """Audio of whole signals, from all or any number of leading codebooks; samples = frames * hop_length."""
        return self._decoder.whole(self._decoder_tree, self._codes(codes))

    def init_encoder(self, batch: int, warm: bool = False) -> State:
        """State of `batch` encoders before their first sample; every leaf leads with the batch axis.

        Fresh, what follows equals the offline result; `warm`, the published program's start after 8192 zeros.
        """
        self._check_streams()
        zeros = jnp.zeros((batch, self.hop_length, self.audio_channels))
        state = self._encoder.fresh(self._encoder_tree, zeros)
        return self._warm_encoder(state)[0] if warm else state

    def encode_step(
        self, state: State, chunk: Any, reset: Any = None, hold: Any = None, codebooks: int | None = None
    ) -> tuple[State, Array]:
        """Next state and codes of a chunk of any whole number of hops; `codebooks` as in `encode`.

        `reset` bool[batch]: streams that start afresh with this chunk. `hold` bool[batch]: streams that stay as they
        are (those also reset, fresh), whatever their part of the chunk holds; their codes are 0.
        """
        chunk = self._whole_hops(chunk, 1)
        masks, settings = self._masks(len(chunk), reset, hold), self._coding(codebooks)
        return self._encoder.step(self._encoder_tree, state, chunk, *masks, **settings)

    def encode_scan(self, state: State, audio: Any, frames: int, codebooks: int | None = None) -> tuple[State, Array]:
        """`encode_step` over chunk after chunk of `frames` frames in one compiled call; samples in whole chunks."""
        audio, settings = self._whole_hops(audio, frames), self._coding(codebooks)
        return self._encoder.scan(self._encoder_tree, state, audio, frames * self.hop_length, **settings)

    def init_decoder(self, batch: int, warm: bool = False) -> State:
        """State of `batch` decoders before their first frame; `warm` as in `init_encoder`."""
        self._check_streams()
        codes = jnp.zeros((batch, 1, self.num_codebooks), jnp.int32)
        state = self._decoder.fresh(self._decoder_tree, codes)
        if not warm:
            return state
        _, codes = self._warm_encoder(self.init_encoder(batch))
        return self._decoder.step(self._decoder_tree, zero_start(state), codes, None, None)[0]

    def decode_step(self, state: State, codes: Any, reset: Any = None, hold: Any = None) -> tuple[State, Array]:
        """Next state and audio of any number of frames; masks as in `encode_step`, held streams are silent."""
        codes = self._codes(codes)
        return self._decoder.step(self._decoder_tree, state, codes, *self._masks(len(codes), reset, hold))

    def decode_scan(self, state: State, codes: Any, frames: int) -> tuple[State, Array]:
        """`decode_step` over chunk after chunk of `frames` frames in one compiled call; codes in whole chunks."""
        codes = self._codes(codes)
        if codes.shape[1] % frames:
            raise AdjaxError(f"codes must be whole chunks of {frames} frames; there are {codes.shape[1]} frames")
        return self._decoder.scan(self._decoder_tree, state, codes, frames)

    def pure_step(self, name: Literal["encode", "decode"]) -> Callable[[Any, State, Array], tuple[State, Array]]:
        """The step as a function of (`tree`, state, chunk), for programs that hold the weights; not with kernels."""
        step = (self._encoder if name == "encode" else self._decoder).step
        return lambda tree, state, x: step(tree, state, x, None, None)

    def compile(self, streams: int = 1, frames: int = 1, codebooks: int | None = None) -> None:
        """Makes the first chunk of `frames` frames of `streams` streams as fast as those that follow."""
        audio = jnp.zeros((streams, frames * self.hop_length, self.audio_channels))
        codes = self.encode_step(self.init_encoder(streams), audio, codebooks=codebooks)[1]
        jax.block_until_ready(self.decode_step(self.init_decoder(streams), codes))

    def _warm_encoder(self, state: State) -> tuple[State, Array]:
        samples = WARM_SAMPLES
        if isinstance(self.config.encoder, SpectralEncoder) or self.config.encoder.aligned:
            samples += -samples % self.hop_length  # these see whole hops only
        batch = jax.tree.leaves(state)[0].shape[0]
        zeros = jnp.zeros((batch, samples, self.audio_channels))
        return self._encoder.step(self._encoder_tree, state, zeros, None, None)

    def _check_streams(self) -> None:
        if not self.config.encoder.causal:
            raise AdjaxError(f"model '{self.config.name}' is not causal: it codes whole signals, not streams")

    def _whole_hops(self, audio: Any, frames: int) -> Any:
        audio = self._audio(audio)
        if frames < 1 or audio.shape[1] % (frames * self.hop_length):
            what = f"{frames} hops" if frames != 1 else "whole hops"
            raise AdjaxError(f"a chunk must be {what} of {self.hop_length} samples; there are {audio.shape[1]} samples")
        return audio

    def _coding(self, codebooks: int | None) -> dict[str, int]:
        """What the encoder's programs take beside arrays: the number of codebooks, where it is not all."""
        if codebooks is not None and not 1 <= codebooks <= self.num_codebooks:
            raise AdjaxError(f"codebooks is {codebooks}, but model '{self.config.name}' has 1 to {self.num_codebooks}")
        return {} if codebooks in (None, self.num_codebooks) else {"codebooks": codebooks}

    def _masks(self, batch: int, reset: Any, hold: Any) -> list[Array | None]:
        masks = []
        for name, mask in (("reset", reset), ("hold", hold)):
            if mask is not None and (np.shape(mask) != (batch,) or jnp.asarray(mask).dtype != jnp.bool_):
                raise AdjaxError(f"{name} must be bool[{batch}], one for each stream, not {np.shape(mask)}")
            masks.append(None if mask is None else jnp.asarray(mask))
        return masks

    def _audio(self, audio: Any) -> Any:
        audio = audio.astype(jnp.float32) if isinstance(audio, Array) else np.asarray(audio, np.float32)
        if audio.ndim != 3 or audio.shape[2] != self.audio_channels:
            raise AdjaxError(
                f"audio must be [batch, samples, {self.audio_channels}] for model '{self.config.name}', "
                f"not {list(audio.shape)}; code further channels as streams of their own, in the batch"
            )
        if not audio.shape[1]:
            raise AdjaxError("audio has no samples")
        return audio

    def _codes(self, codes: Any) -> Any:
        shape = np.shape(codes)
        if len(shape) != 3 or not 1 <= shape[2] <= self.num_codebooks:
            raise AdjaxError(
                f"codes must be [batch, frames, 1 to {self.num_codebooks} codebooks] for model "
                f"'{self.config.name}', not {list(shape)}"
            )
        if isinstance(codes, np.ndarray) and codes.size and not (codes.min() >= 0 and codes.max() < self.codebook_size):
            raise AdjaxError(f"codes must be in [0, {self.codebook_size}) for model '{self.config.name}'")
        return codes.astype(jnp.int32) if isinstance(codes, Array) else np.asarray(codes, np.int32)
