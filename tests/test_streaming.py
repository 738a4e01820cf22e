"""Laws of streaming: what a stream gives depends on neither its chunks, nor its neighbours, nor the future."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjax.errors import AdjaxError
from adjax.streaming import Codec
from tests.conftest import TINY_CONV, TINY_SPECTRAL, fill

FRAMES = 12
MODELS = {m.name: m for m in (TINY_CONV, TINY_SPECTRAL)}
names = pytest.mark.parametrize("name", list(MODELS))


@cache
def model(name: str) -> Codec:
    return Codec(MODELS[name], fill(MODELS[name]))


@cache
def whole(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A signal [2, samples, 1], its codes and its decoded audio, each in one piece."""
    codec = model(name)
    audio = np.random.default_rng(0).standard_normal((2, FRAMES * codec.hop_length, 1)).astype(np.float32) * 0.3
    codes = np.asarray(codec.encode(audio))
    return audio, codes, np.asarray(codec.decode(codes))


def stream(codec: Codec, audio: np.ndarray, chunks: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Codes and audio of a batch of streams, fed `chunks` frames at a time."""
    encoder, decoder = codec.init_encoder(len(audio)), codec.init_decoder(len(audio))
    all_codes, all_audio, start = [], [], 0
    for frames in chunks:
        end = start + frames * codec.hop_length
        encoder, codes = codec.encode_step(encoder, audio[:, start:end])
        decoder, decoded = codec.decode_step(decoder, codes)
        all_codes.append(np.asarray(codes))
        all_audio.append(np.asarray(decoded))
        start = end
    return np.concatenate(all_codes, axis=1), np.concatenate(all_audio, axis=1)


@names
@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.sampled_from([1, 2, 3]), min_size=FRAMES, max_size=FRAMES))
def test_any_chunking_equals_the_whole(name: str, cuts: list[int]) -> None:
    """Each layer keeps exactly the context that the next chunk needs, so cuts cannot show."""
    chunks: list[int] = []
    while sum(chunks) < FRAMES:
        chunks.append(min(cuts[len(chunks)], FRAMES - sum(chunks)))
    audio, codes, decoded = whole(name)
    streamed_codes, streamed = stream(model(name), audio, chunks)
    np.testing.assert_array_equal(streamed_codes, codes)
    np.testing.assert_allclose(streamed, decoded, rtol=0, atol=1e-5 * np.abs(decoded).max())


@names
def test_fresh_states_are_zero_and_lead_with_the_batch(name: str) -> None:
    """So that streams are reset by zeroing and moved by indexing, leaf by leaf."""
    codec = model(name)
    for state in (codec.init_encoder(3), codec.init_decoder(3)):
        leaves = jax.tree.leaves(state)
        assert leaves
        for leaf in leaves:
            assert leaf.shape[0] == 3
            assert not np.asarray(leaf).any()


@names
def test_scan_over_chunks_equals_the_whole(name: str) -> None:
    """A step is pure with a state of constant shape, which is all that `lax.scan` asks for."""
    codec = model(name)
    audio, codes, decoded = whole(name)
    chunks = jnp.moveaxis(jnp.asarray(audio).reshape(2, FRAMES // 2, -1, 1), 1, 0)

    @jax.jit
    def run(chunks: Any) -> Any:
        def body(states: Any, chunk: Any) -> Any:
            encoder, codes = codec.encode_step(states[0], chunk)
            decoder, audio = codec.decode_step(states[1], codes)
            return (encoder, decoder), (codes, audio)

        return jax.lax.scan(body, (codec.init_encoder(2), codec.init_decoder(2)), chunks)[1]

    scanned_codes, scanned = run(chunks)
    np.testing.assert_array_equal(np.moveaxis(np.asarray(scanned_codes), 0, 1).reshape(codes.shape), codes)
    np.testing.assert_allclose(
        np.moveaxis(np.asarray(scanned), 0, 1).reshape(decoded.shape), decoded, rtol=0, atol=1e-5
    )


@names
def test_a_stream_in_a_batch_equals_the_stream_alone(name: str) -> None:
    """Nothing mixes along the batch axis."""
    codec = model(name)
    audio, codes, decoded = whole(name)
    alone = np.asarray(codec.encode(audio[1:]))
    np.testing.assert_array_equal(alone, codes[1:])
    np.testing.assert_allclose(codec.decode(alone), decoded[1:], rtol=0, atol=1e-5)


@names
def test_the_future_cannot_be_heard(name: str) -> None:
    """NaN spreads through every sum, so what is finite cannot have seen it: causality to the frame, both ways."""
    codec = model(name)
    audio, codes, decoded = whole(name)
    poisoned = audio.copy()
    poisoned[:, 7 * codec.hop_length :] = np.nan
    np.testing.assert_array_equal(np.asarray(codec.encode(poisoned))[:, :7], codes[:, :7])
    other = codes.copy()
    other[:, 7:] = (other[:, 7:] + 1) % codec.codebook_size
    again = np.asarray(codec.decode(other))
    before, after = slice(0, 7 * codec.hop_length), slice(7 * codec.hop_length, None)
    np.testing.assert_allclose(again[:, before], decoded[:, before], rtol=0, atol=1e-6)
    assert np.abs(again[:, after] - decoded[:, after]).max() > 1e-3


@names
def test_a_frame_sees_its_whole_hop(name: str) -> None:
    """The aligned strided convolutions and the lapped transform use the last sample of the hop that has arrived."""
    codec = model(name)
    audio = whole(name)[0]
    latents = jax.jit(lambda x: codec._model.apply(codec.tree, x, method="latents"))
    changed = audio.copy()
    changed[:, 5 * codec.hop_length - 1] += 1.0  # the last sample of frame 4
    difference = np.abs(np.asarray(latents(changed)) - np.asarray(latents(audio))).max(axis=(0, 2))
    assert difference[:4].max() == 0
    assert difference[4] > 1e-6


@names
def test_any_number_of_leading_codebooks_decodes(name: str) -> None:
    """The quantizer is residual: leaving out the last stages leaves a coarser latent, never an error."""
    codec = model(name)
    codes = whole(name)[1]
    sizes = [np.asarray(codec.decode(codes[..., :n])).shape for n in (1, 2, 3)]
    assert len(set(sizes)) == 1


def test_coding_fewer_codebooks_is_the_same_in_steps() -> None:
    """Codes of two codebooks do not depend on chunks either."""
    codec, (audio, all_codes, _) = model(TINY_SPECTRAL.name), whole(TINY_SPECTRAL.name)
    codes = np.asarray(codec.encode(audio, codebooks=2))
    assert codes.shape == (*all_codes.shape[:2], 2)
    state, first = codec.encode_step(codec.init_encoder(len(audio)), audio[:, : codec.hop_length], codebooks=2)
    rest = codec.encode_scan(state, audio[:, codec.hop_length : 3 * codec.hop_length], 1, codebooks=2)[1]
    np.testing.assert_array_equal(np.concatenate([first, rest], axis=1), codes[:, :3])
    for wrong in (0, codec.num_codebooks + 1):
        with pytest.raises(AdjaxError, match=f"1 to {codec.num_codebooks}"):
            codec.encode(audio, codebooks=wrong)


@names
def test_partial_hops_are_filled_up(name: str) -> None:
    """frames = ceil(samples / hop); the frames that real samples fill are those of the longer signal."""
    codec = model(name)
    audio, codes, _ = whole(name)
    short = np.asarray(codec.encode(audio[:, : 3 * codec.hop_length + 1]))
    assert short.shape == (2, 4, codec.num_codebooks)
    np.testing.assert_array_equal(short[:, :3], codes[:, :3])


@names
def test_what_does_not_fit_is_refused(name: str) -> None:
    """Each message says what would fit."""
    codec = model(name)
    with pytest.raises(AdjaxError, match="batch, samples, 1"):
        codec.encode(np.zeros((1, 100, 2), np.float32))
    with pytest.raises(AdjaxError, match="no samples"):
        codec.encode(np.zeros((1, 0, 1), np.float32))
    with pytest.raises(AdjaxError, match="whole hops of 20"):
        codec.encode_step(codec.init_encoder(1), np.zeros((1, 21, 1), np.float32))
    with pytest.raises(AdjaxError, match="1 to 3 codebooks"):
        codec.decode(np.zeros((1, 2, 4), np.int32))
    with pytest.raises(AdjaxError, match=r"in \[0, 16\)"):
        codec.decode(np.full((1, 2, 3), 16, np.int32))


@names
def test_random_signs_do_not_depend_on_chunks_or_start(name: str) -> None:
    """A stream that is reset half-way gives what a fresh one gives: the frame counter is part of its state."""
    codec = model(name)
    audio = whole(name)[0]
    _, first = stream(codec, audio[:, : 4 * codec.hop_length], [4])
    _, again = stream(codec, audio[:, : 4 * codec.hop_length], [1, 1, 1, 1])
    np.testing.assert_allclose(first, again, rtol=0, atol=1e-6)
