"""The laws of streaming on every model of the zoo in small, and on random geometries.

A stream's codes are those of its whole signal, and its audio is within 1e-5 of full scale, whatever shares its batch,
however it is cut, whether it was held on the way, and whoever had its place before.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adjax import kernels, zoo
from adjax.config import ConvDecoder, ConvEncoder, ModelConfig, Quantizer, SpectralDecoder, SpectralEncoder, Vocoder
from adjax.errors import AdjaxError
from adjax.packed import Part, pack_constants
from adjax.streaming import Codec
from tests.conftest import TINY_CONV, TINY_SPECTRAL, fill

FRAMES, CHUNK = 8, 2
TOLERANCE = 1e-5


def small(model: ModelConfig) -> ModelConfig:
    """The same layers with a few channels."""
    encoder, decoder = model.encoder, model.decoder
    if isinstance(encoder, ConvEncoder):
        encoder = replace(encoder, channels=2, ratios=(2,) * len(encoder.ratios))
    else:
        encoder = replace(encoder, channels=8, gain_bands=3)
    if isinstance(decoder, ConvDecoder):
        decoder = replace(decoder, channels=2, ratios=(2,) * len(decoder.ratios))
    elif isinstance(decoder, Vocoder):
        decoder = replace(decoder, channels=32)
    else:
        decoder = replace(decoder, channels=8, gain_bands=3)
    quantizer = replace(
        model.quantizer, codebooks=2, codebook_size=16, dim=4, predicted=min(model.quantizer.predicted, 3)
    )
    return replace(
        model, name="m", source="", sample_rate_hz=48000, encoder=encoder, decoder=decoder, quantizer=quantizer
    )


STRUCTURES = {small(model): name for name, model in reversed(zoo.MODELS.items())}  # each structure once
zoo_models = pytest.mark.parametrize("config", STRUCTURES, ids=list(STRUCTURES.values()))


@cache
def codec_of(config: ModelConfig) -> Codec:
    return Codec(config, fill(config))


@cache
def signals(config: ModelConfig, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`count` signals, their codes and their audio, each signal coded whole."""
    codec = codec_of(config)
    audio = np.random.default_rng(1).standard_normal((count, FRAMES * codec.hop_length, 1)).astype(np.float32) * 0.3
    codes = np.asarray(codec.encode(audio))
    return audio, codes, np.asarray(codec.decode(codes))


@zoo_models
def test_streams_come_and_go(config: ModelConfig) -> None:
    """Three places and four streams: one starts late, one pauses, one ends and its place is taken over."""
    codec = codec_of(config)
    audio, codes, sound = signals(config, 4)
    hop, chunks = codec.hop_length, FRAMES // CHUNK
    # The stream in each place at each step; None: held. Stream 2 is cut short after three chunks; stream 3 follows it.
    late = [None, None] + [1] * chunks + [None]
    pausing = [0, None, 0, None, 0, 0, None]
    shared = [2, 2, 2, 3, 3, 3, 3]
    plan = list(zip(pausing, late, shared, strict=True))
    encoder, decoder = codec.init_encoder(3), codec.init_decoder(3)
    given_chunks = dict.fromkeys(range(4), 0)
    got_codes: dict[int, list[np.ndarray]] = {i: [] for i in range(4)}
    got_sound: dict[int, list[np.ndarray]] = {i: [] for i in range(4)}
    garbage = np.full((CHUNK * hop, 1), np.nan, np.float32)
    for row in plan:
        chunk = np.stack([garbage] * 3)
        for place, stream in enumerate(row):
            if stream is not None:
                start = given_chunks[stream] * CHUNK * hop
                chunk[place] = audio[stream, start : start + CHUNK * hop]
        reset = np.array([stream is not None and given_chunks[stream] == 0 for stream in row])
        hold = np.array([stream is None for stream in row])
        encoder, step_codes = codec.encode_step(encoder, chunk, reset=reset, hold=hold)
        decoder, step_sound = codec.decode_step(decoder, step_codes, reset=reset, hold=hold)
        for place, stream in enumerate(row):
            if stream is None:
                assert not np.asarray(step_codes[place]).any()
                assert not np.asarray(step_sound[place]).any()
            else:
                given_chunks[stream] += 1
                got_codes[stream].append(np.asarray(step_codes[place]))
                got_sound[stream].append(np.asarray(step_sound[place]))
    assert given_chunks == {0: 4, 1: 4, 2: 3, 3: 4}
    for stream in range(4):
        frames = given_chunks[stream] * CHUNK
        np.testing.assert_array_equal(np.concatenate(got_codes[stream]), codes[stream, :frames])
        np.testing.assert_allclose(
            np.concatenate(got_sound[stream]), sound[stream, : frames * hop], rtol=0, atol=TOLERANCE
        )


@zoo_models
def test_scan(config: ModelConfig) -> None:
    """One compiled call over all chunks; the state after it is that after the steps, for what comes next."""
    codec = codec_of(config)
    audio, codes, sound = signals(config, 4)
    encoder, scanned = codec.encode_scan(codec.init_encoder(4), audio, CHUNK)
    np.testing.assert_array_equal(scanned, codes)
    decoder, decoded = codec.decode_scan(codec.init_decoder(4), codes, CHUNK)
    np.testing.assert_allclose(decoded, sound, rtol=0, atol=TOLERANCE)
    for state, fresh in ((encoder, codec.init_encoder(4)), (decoder, codec.init_decoder(4))):
        assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, fresh)


@zoo_models
def test_causal_to_the_sample(config: ModelConfig) -> None:
    """NaN spreads through every sum. Put into one sample, it shows the first output that waits for that sample.

    The latents are not quantized here: the nearest code to NaN is a code.
    """
    codec = codec_of(config)
    hop, model = codec.hop_length, codec._model
    through = jax.jit(
        lambda x: model.apply(codec.tree, model.apply(codec.tree, x, method="latents"), method="decode_latents")
    )
    audio = signals(config, 4)[0][:1]
    ahead = []
    for position in (3 * hop, 3 * hop + 1, 4 * hop - 1):
        poisoned = audio.copy()
        poisoned[0, position] = np.nan
        touched = np.isnan(np.asarray(through(poisoned))[0, :, 0])
        assert touched.any()
        ahead.append(position - int(np.argmax(touched)))
    assert max(ahead) + codec.delay == codec.algorithmic_delay


@st.composite
def geometries(draw: Any) -> ModelConfig:
    """Any strides, widths, dilations and options of the causal models, in small."""
    strides = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    ratios = tuple(draw(st.lists(st.integers(1, 3), min_size=len(strides), max_size=len(strides))))
    flags = {"activate": draw(st.booleans()), "weight_norm": draw(st.booleans()), "bias": draw(st.booleans())}
    channels = draw(st.integers(1, 5))
    encoder = ConvEncoder(channels=channels, ratios=ratios, strides=strides, aligned=draw(st.booleans()), **flags)
    mirrored = ConvDecoder(channels=channels, ratios=ratios[::-1], strides=strides[::-1], **flags)
    several = draw(st.booleans())
    vocoder = Vocoder(
        channels=8 * draw(st.integers(1, 3)),
        strides=strides,
        block_kernels=(1, 4) if several else (draw(st.integers(1, 5)),),
        block_dilations=((1,), (2, 3)) if several else ((1, draw(st.integers(1, 4))),),
        groups=1 if several else draw(st.integers(1, 3)),
        additional_convs=draw(st.booleans()),
        statistics=draw(st.booleans()),
    )
    return ModelConfig(
        "random",
        encoder=encoder,
        quantizer=Quantizer(codebooks=draw(st.integers(1, 3)), codebook_size=8, dim=draw(st.integers(1, 5))),
        decoder=draw(st.sampled_from([mirrored, vocoder])),
        projector_bias=draw(st.booleans()),
    )


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(config=geometries(), chunk=st.sampled_from([1, 2, 4]))
def test_random_geometries(config: ModelConfig, chunk: int) -> None:
    """The laws follow from the layers, not from the published numbers."""
    codec = Codec(config, fill(config))
    audio = np.random.default_rng(2).standard_normal((2, FRAMES * codec.hop_length, 1)).astype(np.float32)
    codes = np.asarray(codec.encode(audio))
    sound = np.asarray(codec.decode(codes))
    _, scanned = codec.encode_scan(codec.init_encoder(2), audio, chunk)
    np.testing.assert_array_equal(scanned, codes)
    _, decoded = codec.decode_scan(codec.init_decoder(2), codes, chunk)
    np.testing.assert_allclose(decoded, sound, rtol=0, atol=TOLERANCE * max(1, np.abs(sound).max()))


@pytest.mark.parametrize("config", [TINY_CONV, TINY_SPECTRAL], ids=["conv", "spectral"])
def test_pmap_over_devices(config: ModelConfig) -> None:
    """A step is per device: streams spread over devices give what they give together."""
    codec = codec_of(config)
    audio, codes, sound = signals(config, 4)
    spread = lambda tree: jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), tree)  # noqa: E731
    encoder, step_codes = jax.pmap(codec.encode_step)(spread(codec.init_encoder(4)), spread(audio))
    np.testing.assert_array_equal(np.asarray(step_codes).reshape(codes.shape), codes)
    _, step_sound = jax.pmap(codec.decode_step)(spread(codec.init_decoder(4)), step_codes)
    np.testing.assert_allclose(np.asarray(step_sound).reshape(sound.shape), sound, rtol=0, atol=TOLERANCE)
    assert all(len(leaf.devices()) == 2 for leaf in jax.tree.leaves(encoder))


def test_masks_and_chunks_that_do_not_fit() -> None:
    codec = codec_of(TINY_CONV)
    audio, codes, _ = signals(TINY_CONV, 4)
    state = codec.init_encoder(4)
    for mask in (np.zeros(3, bool), np.zeros(4, int), True):
        with pytest.raises(AdjaxError, match=r"reset must be bool\[4\]"):
            codec.encode_step(state, audio, reset=mask)
    with pytest.raises(AdjaxError, match="3 hops of 20 samples"):
        codec.encode_scan(state, audio, 3)
    with pytest.raises(AdjaxError, match="whole chunks of 3 frames"):
        codec.decode_scan(codec.init_decoder(4), codes, 3)


# ------------------------------------------------------------------------------------------------------- kernels

needs_kernels = pytest.mark.skipif(not kernels.available(), reason="the kernel could not be built here")


@needs_kernels
@pytest.mark.parametrize("config", [TINY_CONV, TINY_SPECTRAL], ids=["conv", "spectral"])
def test_kernels_equal_xla(config: ModelConfig) -> None:
    """Two ways to one sum: they differ by rounding only, and a machine without a compiler loses speed only."""
    audio, codes, sound = signals(config, 4)
    plain = Codec(config, fill(config), kernels=False)
    np.testing.assert_array_equal(plain.encode(audio), codes)
    np.testing.assert_allclose(plain.decode(codes), sound, rtol=0, atol=TOLERANCE)


@needs_kernels
@settings(max_examples=25, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, n) for n in (3, 30, 20, 40, 5)]),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 3),
    earlier=st.integers(0, 9),
    activation=st.sampled_from(["none", "elu", "leaky", "rms"]),
    options=st.tuples(st.booleans(), st.booleans()),
)
def test_one_layer(
    sizes: tuple[int, ...], stride: int, dilation: int, earlier: int, activation: str, options: tuple[bool, bool]
) -> None:
    """Against the definition in float64, for shapes that fill neither a register nor a block of outputs."""
    batch, time, channels, features, taps = sizes
    time += (taps - 1) * dilation
    rng = np.random.default_rng(3)
    x, context, kernel = (
        rng.standard_normal(s).astype(np.float32)
        for s in ((batch, time, channels), (batch, earlier, channels), (taps, channels, features))
    )
    frames = (earlier + time - (taps - 1) * dilation - 1) // stride + 1
    weights = {"kernel": kernels.pack(kernel)}
    weights |= {"bias": rng.standard_normal(features).astype(np.float32)} if options[0] else {}
    weights |= {"scale": rng.standard_normal(channels).astype(np.float32)} if activation == "rms" else {}
    parts = pack_constants(weights).parts()
    residual = rng.standard_normal((batch, frames, features)).astype(np.float32) if options[1] else None
    y, later = kernels.conv(
        jnp.asarray(x),
        jnp.asarray(context),
        parts["kernel"],
        parts.get("bias"),
        None if residual is None else jnp.asarray(residual),
        features,
        stride,
        dilation,
        "none" if activation == "rms" else activation,
        0.1,
        parts.get("scale"),
    )
    double = x.astype(np.float64)
    acted = {
        "none": double,
        "elu": np.where(double > 0, double, np.expm1(np.minimum(double, 0))),
        "leaky": np.where(double >= 0, double, 0.1 * double),
        "rms": double / np.sqrt(np.mean(double**2, axis=-1, keepdims=True) + 1e-6) * weights.get("scale", 1),
    }[activation]
    whole = np.concatenate([context, acted], axis=1)
    wanted = np.zeros((batch, frames, features))
    for k in range(taps):
        rows = whole[:, k * dilation :][:, : (frames - 1) * stride + 1 : stride]
        wanted += rows @ kernel[k].astype(np.float64)
    wanted += weights.get("bias", 0)
    wanted += 0 if residual is None else residual
    np.testing.assert_allclose(y, wanted, rtol=0, atol=2e-5)
    np.testing.assert_allclose(later, whole[:, time:], rtol=0, atol=1e-6)


@needs_kernels
@settings(max_examples=10, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, n) for n in (3, 220, 40, 4)]),
    dilation=st.integers(1, 3),
    activation=st.sampled_from(["elu", "leaky"]),
)
def test_a_residual_unit_in_one_call(sizes: tuple[int, ...], dilation: int, activation: str) -> None:
    """Bit for bit its two layers one after the other, with few frames and with many: they are cut up differently."""
    batch, time, channels, taps = sizes
    rng = np.random.default_rng(4)
    shapes = ((batch, time, channels), (batch, (taps - 1) * dilation, channels))
    x, context = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in shapes)
    weights = {
        name: kernels.pack(rng.standard_normal((n, channels, channels)).astype(np.float32))
        for name, n in (("first", taps), ("second", 1))
    }
    parts = pack_constants(weights).parts()
    how = {"dilation": dilation, "activation": activation, "slope": 0.1}
    y, later = kernels.conv(x, context, parts["first"], None, None, channels, **how)
    how["dilation"] = 1
    wanted, _ = kernels.conv(y, jnp.zeros((batch, 0, channels)), parts["second"], None, x, channels, **how)
    how["dilation"] = dilation
    got, also_later = kernels.conv(x, context, parts["first"], None, None, channels, **how, tail=parts["second"])
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(also_later, later)


@needs_kernels
def test_shapes_that_do_not_fit_are_refused() -> None:
    """The kernel reads raw memory, so it checks what it is given."""
    x, context = jnp.zeros((1, 4, 3)), jnp.zeros((1, 2, 2))
    part = Part(jnp.zeros(48), 0, (1, 1, 3, 16))
    with pytest.raises(Exception, match="do not fit"):
        jax.block_until_ready(kernels.conv(x, context, part, None, None, 16))
    context = jnp.zeros((1, 2, 3))
    jax.block_until_ready(kernels.conv(x, context, part, None, None, 16))
    for beyond in (replace(part, offset=1), replace(part, offset=-1), replace(part, shape=(1, 2, 3, 16))):
        with pytest.raises(Exception, match="do not fit"):
            jax.block_until_ready(kernels.conv(x, context, beyond, None, None, 16))
    with pytest.raises(Exception, match="do not fit"):
        jax.block_until_ready(kernels.conv(x, context, part, Part(part.array, 33, (16,)), None, 16))
    with pytest.raises(Exception, match="do not fit"):
        jax.block_until_ready(kernels.conv(x, context, part, None, None, 16, scale=Part(part.array, 46, (3,))))
    with pytest.raises(Exception, match="do not fit"):  # a residual unit has as many outputs as inputs
        jax.block_until_ready(kernels.conv(x, context, part, None, None, 16, tail=part))
    with pytest.raises(ValueError, match="in one array"):
        kernels.conv(x, context, part, Part(jnp.zeros(48), 0, (16,)), None, 16)


def test_machines_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """They lose speed only: `available` says no instead of raising, whatever goes wrong in the build."""
    monkeypatch.delenv("ADJAX_NO_KERNELS", raising=False)
    monkeypatch.setenv("ADJAX_CACHE_DIR", str(tmp_path))
    for compiler in ("/nonexistent/c++", "false", "true"):  # missing, failing, and one that writes no library
        monkeypatch.setenv("CXX", compiler)
        assert not kernels.available.__wrapped__()
    monkeypatch.setenv("ADJAX_NO_KERNELS", "1")
    assert not kernels.available.__wrapped__()


def test_tiny_models_with_other_channel_counts_are_covered() -> None:
    """`small` must keep the kinds of layers: otherwise the zoo would not be tested at all."""
    kinds = {type(config.encoder) for config in STRUCTURES} | {type(config.decoder) for config in STRUCTURES}
    assert kinds == {ConvEncoder, ConvDecoder, Vocoder, SpectralEncoder, SpectralDecoder}
