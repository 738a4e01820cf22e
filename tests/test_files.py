"""Whole files through a codec: the same codes and audio as in one piece, lined up, and nothing taken on trust."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from adjax import audio, files
from adjax.bitstream import HEADER_BYTES, Header, Reader, Writer
from adjax.errors import AdjaxError
from adjax.streaming import Codec
from tests.conftest import TINY_CONV, TINY_SPECTRAL, fill

RATE, HOP, DELAY = 8000, 20, 20  # of the tiny model


def noise_file(path: Path, samples: int, channels: int = 1, rate: int = RATE) -> Path:
    x = 0.1 * np.random.default_rng(samples).standard_normal((samples, channels))
    soundfile.write(path, x.astype(np.float32), rate, "PCM_16")
    return path


def read(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="float32", always_2d=True)[0]


def codes_of(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        return Reader(file).read_all()


@pytest.fixture(scope="module")
def coded(tiny_codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """An input of three blocks and a bit, its bitstream, and its decoded file; not to be changed."""
    folder = tmp_path_factory.mktemp("coded")
    source = noise_file(folder / "in.wav", 3 * RATE + 37)
    files.encode_file(tiny_codec, source, folder / "x.adjx")
    files.decode_file(tiny_codec, folder / "x.adjx", folder / "out.wav")
    return source, folder / "x.adjx", folder / "out.wav"


def test_files_are_coded_as_in_one_piece(tiny_codec: Codec, coded: tuple[Path, Path, Path]) -> None:
    """Chunks, blocks and padding are ways to store a signal; they may change neither a code nor a sample."""
    source, stream, output = coded
    x = read(source)
    frames = -(-len(x) // HOP) + DELAY // HOP
    padded = np.zeros((1, frames * HOP, 1), np.float32)
    padded[0, : len(x)] = x
    codes = np.asarray(tiny_codec.encode(padded))
    np.testing.assert_array_equal(codes_of(stream), codes)
    whole = np.asarray(tiny_codec.decode(codes))[0, DELAY:][: len(x)]
    np.testing.assert_allclose(read(output), np.clip(whole, -1, 32767 / 32768), atol=1.01 / 65536 + 1e-5)


@pytest.mark.parametrize(
    ("rate", "channels", "samples"), [(RATE, 1, 1), (11025, 2, 4001), (48000, 1, 24001), (RATE, 2, 5000)]
)
def test_outputs_have_the_shape_of_inputs(
    tiny_codec: Codec, tmp_path: Path, rate: int, channels: int, samples: int
) -> None:
    source = noise_file(tmp_path / "in.flac", samples, channels, rate)
    report = files.encode_file(tiny_codec, source, tmp_path / "x.adjx")
    assert (report.samples, report.channels, report.sample_rate_hz) == (samples, channels, rate)
    assert report.file_bytes == (tmp_path / "x.adjx").stat().st_size
    assert report.payload_bits == report.frames * channels * 3 * 4
    assert report.payload_kbps == pytest.approx(report.payload_bits / (samples / rate) / 1000)
    decoded = files.decode_file(tiny_codec, tmp_path / "x.adjx", tmp_path / "out.wav")
    info = soundfile.info(tmp_path / "out.wav")
    assert (info.frames, info.channels, info.samplerate) == (samples, channels, rate)
    assert not decoded.warnings
    files.decode_file(tiny_codec, tmp_path / "x.adjx", tmp_path / "model.wav", model_rate=True)
    info = soundfile.info(tmp_path / "model.wav")
    assert (info.frames, info.samplerate) == (audio.resampled_length(samples, rate, RATE), RATE)


def test_channels_are_streams_of_their_own(tiny_codec: Codec, coded: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """A channel beside another must give the codes that it gives alone."""
    x = read(coded[0])
    soundfile.write(tmp_path / "two.wav", np.concatenate([x[::-1], x], axis=1), RATE, "PCM_16")
    files.encode_file(tiny_codec, tmp_path / "two.wav", tmp_path / "two.adjx")
    both = codes_of(tmp_path / "two.adjx")
    assert both.shape[0] == 2
    np.testing.assert_array_equal(both[1:], codes_of(coded[1]))


def test_steps_have_one_shape(tiny_codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each further shape would be compiled for seconds, and a shape that grows with the file is not constant memory."""
    shapes = set()
    for name in ("encode_scan", "decode_scan"):
        scan = getattr(Codec, name)

        def spy(self: Codec, state: Any, x: Any, frames: int, *more: Any, scan: Any = scan, name: str = name) -> Any:
            shapes.add((name, x.shape, frames))
            return scan(self, state, x, frames, *more)

        monkeypatch.setattr(Codec, name, spy)
    for samples in (77, 8000, 20001):
        source = noise_file(tmp_path / "in.wav", samples)
        files.encode_file(tiny_codec, source, tmp_path / "x.adjx")
        files.decode_file(tiny_codec, tmp_path / "x.adjx", tmp_path / "out.wav")
    frames = RATE // HOP  # a second, in four parts
    assert shapes == {("encode_scan", (1, RATE, 1), frames // 4), ("decode_scan", (1, frames, 3), frames // 4)}


def test_fewer_codebooks(tiny_codec: Codec, coded: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """They are coded as if there were no more, which gives others than the leading ones of all."""
    report = files.encode_file(tiny_codec, coded[0], tmp_path / "x.adjx", codebooks=2)
    codes = codes_of(tmp_path / "x.adjx")
    np.testing.assert_array_equal(codes[:, : RATE // HOP], tiny_codec.encode(read(coded[0])[None, :RATE], codebooks=2))
    assert (codes != codes_of(coded[1])[..., :2]).any()
    assert report.payload_bits == 2 * 4 * report.frames
    decoded = files.decode_file(tiny_codec, tmp_path / "x.adjx", tmp_path / "out.wav")
    assert decoded.samples == report.samples
    for wrong in (0, 4):
        with pytest.raises(AdjaxError, match="1 to 3"):
            files.encode_file(tiny_codec, coded[0], tmp_path / "y.adjx", codebooks=wrong)


def test_progress_reaches_the_end(tiny_codec: Codec, coded: tuple[Path, Path, Path], tmp_path: Path) -> None:
    calls: list[tuple[float, float | None]] = []
    files.encode_file(tiny_codec, coded[0], tmp_path / "x.adjx", progress=lambda *a: calls.append(a))
    assert calls[-1] == (3 + 37 / RATE, 3 + 37 / RATE)
    calls.clear()
    files.decode_file(tiny_codec, coded[1], tmp_path / "x.wav", progress=lambda *a: calls.append(a))
    assert len(calls) == 4
    assert calls[-1][0] == calls[-1][1]


# ---------------------------------------------------------------------------------------------------------- damage


def damaged_copy(stream: Path, place: Path, block: int) -> Path:
    data = bytearray(stream.read_bytes())
    with stream.open("rb") as file:
        data[Reader(file).header.block_offset(block) + 3] ^= 1
    place.write_bytes(data)
    return place


def test_damage_is_refused(tiny_codec: Codec, coded: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """One flipped bit anywhere must not become sound; also not in the last block, behind the last sample."""
    for block in (1, 3):
        bad = damaged_copy(coded[1], tmp_path / "bad.adjx", block)
        with pytest.raises(AdjaxError, match=f"{bad}: byte .* block {block} "):
            files.decode_file(tiny_codec, bad, tmp_path / "out.wav")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.adjx"]


def test_damaged_blocks_become_silence_on_request(
    tiny_codec: Codec, coded: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """Only the damaged second is lost: what precedes it is the same, what follows is there, and a warning says so."""
    bad = damaged_copy(coded[1], tmp_path / "bad.adjx", 1)
    report = files.decode_file(tiny_codec, bad, tmp_path / "out.wav", skip_damaged=True)
    assert len(report.warnings) == 1
    assert "block 1 " in report.warnings[0]
    got, intact = read(tmp_path / "out.wav"), read(coded[2])
    assert got.shape == intact.shape
    start, end = RATE - DELAY, 2 * RATE - DELAY
    np.testing.assert_array_equal(got[:start], intact[:start])
    assert not got[start:end].any()
    assert intact[start:end].any()
    memory = 1300  # of the tiny decoder and quantizer, in samples, rounded up
    np.testing.assert_allclose(got[end + memory :], intact[end + memory :], atol=2 / 32768)


def test_truncated_files(tiny_codec: Codec, coded: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """What is missing is never filled up with silence: a short file could claim years of it."""
    bad = tmp_path / "bad.adjx"
    with coded[1].open("rb") as file:
        bad.write_bytes(file.read(Reader(file).header.block_offset(2) + 5 - file.seek(0)))
    with pytest.raises(AdjaxError, match="truncated in block 2"):
        files.decode_file(tiny_codec, bad, tmp_path / "out.wav")
    report = files.decode_file(tiny_codec, bad, tmp_path / "out.wav", skip_damaged=True)
    assert report.samples == 2 * RATE - DELAY
    assert ["truncated" in w or "missing at the end" in w for w in report.warnings] == [True, True]
    np.testing.assert_array_equal(read(tmp_path / "out.wav"), read(coded[2])[: report.samples])
    bad.write_bytes(coded[1].read_bytes()[:HEADER_BYTES])
    with pytest.raises(AdjaxError, match="holds no audio"):
        files.decode_file(tiny_codec, bad, tmp_path / "none.wav", skip_damaged=True)
    assert not (tmp_path / "none.wav").exists()


def write_stream(path: Path, header: Header, codes: np.ndarray) -> Path:
    with path.open("wb") as file, Writer(file, header) as writer:
        writer.write(codes)
    return path


def test_other_models_are_refused(tiny_codec: Codec, coded: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Another encoder's codes would decode to noise; so would a header that names this one but does not fit it."""
    other = Codec(TINY_SPECTRAL, fill(TINY_SPECTRAL, seed=1))
    with pytest.raises(AdjaxError, match=r"x\.adjx: encoded with model 'tiny-spectral' \(fingerprint"):
        files.decode_file(other, coded[1], tmp_path / "out.wav")
    with coded[1].open("rb") as file:
        header = Reader(file).header
    good = replace(header, frames=None, samples=None)
    for wrong, what in [
        (replace(good, hop_samples=40), "hop is 40"),
        (replace(good, codebook_size=32), "codebook size is 32"),
        (replace(good, sample_rate_hz=16000), "sample rate is 16000"),
        (replace(good, channels=2), "streams is 1"),
        (replace(good, codebooks=4), "4 codebooks"),
        (replace(good, input_sample_rate_hz=1), "cannot resample"),
    ]:
        codes = np.zeros((wrong.streams, 400, wrong.codebooks), np.int32)
        bad = write_stream(tmp_path / "bad.adjx", wrong, codes)
        with pytest.raises(AdjaxError, match=f"bad.adjx: .*{what}"):
            files.decode_file(tiny_codec, bad, tmp_path / "out.wav")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.adjx"]


def test_streams_without_the_frame_for_the_delay(tiny_codec: Codec, tmp_path: Path) -> None:
    """Writers that do not know of the delay say more samples than their frames hold: the end is missing, and named."""
    header = Header(RATE, RATE, 1, 1, 3, 16, HOP, 400, None, None, tiny_codec.fingerprint)
    stream = write_stream(tmp_path / "x.adjx", header, np.zeros((1, 10, 3), np.int32))
    report = files.decode_file(tiny_codec, stream, tmp_path / "out.wav")
    assert report.samples == 10 * HOP - DELAY
    assert "hold only 180 of the 200 samples" in report.warnings[0]


# -------------------------------------------------------------------------------------------------- kinds of models


def test_not_causal_models_take_the_whole_file(tmp_path: Path) -> None:
    """They have no streaming state; the file commands must still work."""
    encoder = replace(TINY_CONV.encoder, causal=False, aligned=False)
    config = replace(TINY_CONV, encoder=encoder, decoder=replace(TINY_CONV.decoder, causal=False))
    codec = Codec(config, fill(config))
    source = noise_file(tmp_path / "in.wav", 4010)
    report = files.encode_file(codec, source, tmp_path / "x.adjx")
    assert report.frames == 201
    padded = np.zeros((1, 201 * HOP, 1), np.float32)
    padded[0, :4010] = read(source)
    np.testing.assert_array_equal(codes_of(tmp_path / "x.adjx"), codec.encode(padded))
    assert files.decode_file(codec, tmp_path / "x.adjx", tmp_path / "out.wav").samples == 4010


def test_models_of_several_channels(tmp_path: Path) -> None:
    """A model that codes channels together is one stream of them, and cannot take another number."""
    encoder = replace(TINY_CONV.encoder, in_channels=2)
    config = replace(TINY_CONV, encoder=encoder, decoder=replace(TINY_CONV.decoder, out_channels=2))
    codec = Codec(config, fill(config))
    files.encode_file(codec, noise_file(tmp_path / "two.wav", 4010, 2), tmp_path / "x.adjx")
    assert codes_of(tmp_path / "x.adjx").shape == (1, 201, 3)
    files.decode_file(codec, tmp_path / "x.adjx", tmp_path / "out.wav")
    assert read(tmp_path / "out.wav").shape == (4010, 2)
    with pytest.raises(AdjaxError, match="has 1 channels, but model 'tiny-conv' codes 2"):
        files.encode_file(codec, noise_file(tmp_path / "one.wav", 4010), tmp_path / "y.adjx")


# ------------------------------------------------------------------------------------------------------ bad outputs


def test_failed_encoding_leaves_nothing(tiny_codec: Codec, tmp_path: Path) -> None:
    """The fault comes after the first blocks were written."""
    x = np.zeros(40 * RATE, np.float32)
    x[-1] = np.nan
    soundfile.write(tmp_path / "in.wav", x, RATE, "FLOAT")
    with pytest.raises(AdjaxError, match=r"at 40\.000 s"):
        files.encode_file(tiny_codec, tmp_path / "in.wav", tmp_path / "x.adjx")
    assert [p.name for p in tmp_path.iterdir()] == ["in.wav"]


def test_full_disk(
    tiny_codec: Codec, coded: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Writer, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Writer, "_put", full)
    with pytest.raises(AdjaxError, match=r"x\.adjx: cannot be written: No space left on device"):
        files.encode_file(tiny_codec, coded[0], tmp_path / "x.adjx")
    assert not list(tmp_path.iterdir())


def test_input_is_not_overwritten(tiny_codec: Codec, tmp_path: Path) -> None:
    source = noise_file(tmp_path / "in.wav", 100)
    before = source.read_bytes()
    (tmp_path / "link.wav").symlink_to(source)
    for target in (source, tmp_path / "link.wav"):
        for run in (files.encode_file, files.decode_file, files.roundtrip_file):
            with pytest.raises(AdjaxError, match="is the input itself"):
                run(tiny_codec, source, target)
    assert source.read_bytes() == before


def test_unknown_lengths(
    tiny_codec: Codec, coded: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some streams do not say how long they are: the bitstream's end record then does."""
    original = audio.open_audio

    @contextmanager
    def unknown(path: Any) -> Iterator[audio.AudioReader]:
        with original(path) as reader:
            reader.samples = None
            yield reader

    monkeypatch.setattr(audio, "open_audio", unknown)
    files.encode_file(tiny_codec, coded[0], tmp_path / "x.adjx")
    np.testing.assert_array_equal(codes_of(tmp_path / "x.adjx"), codes_of(coded[1]))
    files.decode_file(tiny_codec, tmp_path / "x.adjx", tmp_path / "out.wav")
    np.testing.assert_array_equal(read(tmp_path / "out.wav"), read(coded[2]))


def test_roundtrip(tiny_codec: Codec, coded: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """It is encoding and decoding, with a picture whose two panels differ as the signals do."""
    report = files.roundtrip_file(tiny_codec, coded[0], tmp_path / "out.wav")
    assert (tmp_path / "out.wav").read_bytes() == coded[2].read_bytes()
    assert {"log_spectral_distance", "mel_distance", "si_sdr_db"} <= report.quality.keys()
    assert report.encode.times.compute_s > 0 < report.decode.times.real_time_factor
    assert report.picture == tmp_path / "out.png"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.png", "out.wav"]
    with Image.open(report.picture) as image:
        pixels = np.asarray(image)
    rows, columns, colours = pixels.shape
    assert colours == 3
    upper, lower = pixels[60 : rows // 2 - 60, 100:1000], pixels[rows // 2 + 60 : rows - 60, 100:1000]
    assert upper.std() > 5 < lower.std()
    assert columns > 1000
