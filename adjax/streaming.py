"""A codec ready for use: whole signals, and pure steps with explicit state for streams."""

from __future__ import annotations

import os
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from adjax import weights
from adjax.config import ModelConfig, SpectralEncoder
from adjax.errors import AdjaxError
from adjax.models import codec as models
from adjax.nn.conv import STREAM, fold_weight_norm, zero_buffers

State = Any
WARM_SAMPLES = 8192  # zeros that the published streamer feeds before its first chunk


@partial(jax.jit, static_argnums=(0, 1))
def _apply(model: models.Codec, method: str, tree: Any, x: Array) -> Array:
    return cast(Array, model.apply(tree, x, method=method))


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _step(model: models.Codec, method: str, tree: Any, state: State, x: Array) -> tuple[State, Array]:
    y, mutated = model.apply({**tree, STREAM: state}, x, method=method, mutable=[STREAM])
    return mutated[STREAM], y


@partial(jax.jit, static_argnums=(0, 1))
def _fresh(model: models.Codec, method: str, tree: Any, example: Array) -> State:
    shapes = jax.eval_shape(lambda: model.apply(tree, example, method=method, mutable=[STREAM])[1][STREAM])
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


class Codec:
    """Encoder, quantizer and decoder of a trained model.

    Audio is float32[batch, samples, channels], codes int32[batch, frames, codebooks]. The steps are pure: they run
    under `jax.jit`, `jax.lax.scan`, `jax.vmap` and `jax.pmap`. Called as they are, they donate the state they are
    given: use the one they return. Codes do not depend on how a signal is cut into chunks.
    """

    def __init__(self, config: ModelConfig, variables: weights.Tree) -> None:
        self.config = config
        self.fingerprint = weights.fingerprint(config, variables)
        embed = {"quantizer": {"embed": variables["codebook"]["quantizer"]["embed"]}}
        tree = {**variables, "params": fold_weight_norm(variables["params"]), "codebook": embed}
        self._tree = jax.tree.map(jnp.asarray, tree)
        self._model = models.Codec(models.without_weight_norm(config))

    @classmethod
    def load(cls, model: str | os.PathLike[str] | None = None) -> Codec:
        """The codec of a model's name or folder; the default model without one. AdjaxError if it cannot be read."""
        return cls(*weights.load_model(weights.find_model(model)))

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

    @property
    def num_parameters(self) -> int:
        """Weights and codebook values, weight norm folded."""
        return sum(x.size for part in ("params", "codebook") for x in jax.tree.leaves(self._tree[part]))

    def encode(self, audio: Any) -> Array:
        """Codes of whole signals; frames = ceil(samples / hop_length), the last hop filled up with zeros."""
        audio = self._audio(audio)
        missing = -audio.shape[1] % self.hop_length
        return _apply(self._model, "encode", self._tree, jnp.pad(audio, ((0, 0), (0, missing), (0, 0))))

    def decode(self, codes: Any) -> Array:
        """Audio of whole signals, from all or any number of leading codebooks; samples = frames * hop_length."""
        return _apply(self._model, "decode", self._tree, self._codes(codes))

    def init_encoder(self, batch: int, warm: bool = False) -> State:
        """State of `batch` encoders before their first sample; every leaf leads with the batch axis.

        Fresh, what follows equals the offline result; `warm`, the published program's start after 8192 zeros.
        """
        self._check_streams()
        zeros = jnp.zeros((batch, self.hop_length, self.audio_channels))
        state = _fresh(self._model, "encode", self._tree, zeros)
        return self._warm_encoder(state)[0] if warm else state

    def encode_step(self, state: State, chunk: Any) -> tuple[State, Array]:
        """Next state and codes of a chunk of any whole number of hops."""
        chunk = self._audio(chunk)
        if chunk.shape[1] % self.hop_length:
            raise AdjaxError(
                f"a chunk must be whole hops of {self.hop_length} samples; it has {chunk.shape[1]} samples"
            )
        return _step(self._model, "encode", self._tree, state, chunk)

    def init_decoder(self, batch: int, warm: bool = False) -> State:
        """State of `batch` decoders before their first frame; `warm` as in `init_encoder`."""
        self._check_streams()
        codes = jnp.zeros((batch, 1, self.num_codebooks), jnp.int32)
        state = _fresh(self._model, "decode", self._tree, codes)
        if not warm:
            return state
        _, codes = self._warm_encoder(self.init_encoder(batch))
        return _step(self._model, "decode", self._tree, zero_buffers(state), codes)[0]

    def decode_step(self, state: State, codes: Any) -> tuple[State, Array]:
        """Next state and audio of any number of frames."""
        return _step(self._model, "decode", self._tree, state, self._codes(codes))

    def _warm_encoder(self, state: State) -> tuple[State, Array]:
        samples = WARM_SAMPLES
        if isinstance(self.config.encoder, SpectralEncoder) or self.config.encoder.aligned:
            samples += -samples % self.hop_length  # these see whole hops only
        batch = jax.tree.leaves(state)[0].shape[0]
        zeros = jnp.zeros((batch, samples, self.audio_channels))
        return _step(self._model, "encode", self._tree, state, zeros)

    def _check_streams(self) -> None:
        if not self.config.encoder.causal:
            raise AdjaxError(f"model '{self.config.name}' is not causal: it codes whole signals, not streams")

    def _audio(self, audio: Any) -> Array:
        audio = jnp.asarray(audio, jnp.float32)
        if audio.ndim != 3 or audio.shape[2] != self.audio_channels:
            raise AdjaxError(
                f"audio must be [batch, samples, {self.audio_channels}] for model '{self.config.name}', "
                f"not {list(audio.shape)}; code further channels as streams of their own, in the batch"
            )
        if not audio.shape[1]:
            raise AdjaxError("audio has no samples")
        return audio

    def _codes(self, codes: Any) -> Array:
        shape = np.shape(codes)
        if len(shape) != 3 or not 1 <= shape[2] <= self.num_codebooks:
            raise AdjaxError(
                f"codes must be [batch, frames, 1 to {self.num_codebooks} codebooks] for model "
                f"'{self.config.name}', not {list(shape)}"
            )
        if isinstance(codes, np.ndarray) and codes.size and not (codes.min() >= 0 and codes.max() < self.codebook_size):
            raise AdjaxError(f"codes must be in [0, {self.codebook_size}) for model '{self.config.name}'")
        return jnp.asarray(codes, jnp.int32)
