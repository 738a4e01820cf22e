"""Audio files: what is read is checked and complete, resampling has exact lengths, failed writes leave nothing."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from adjax import audio
from adjax.errors import AdjaxError

RNG = np.random.default_rng(0)


def noise(samples: int, channels: int = 1) -> np.ndarray:
    return (0.1 * RNG.standard_normal((samples, channels))).astype(np.float32)


def read_all(path: Path) -> np.ndarray:
    with audio.open_audio(path) as reader:
        return np.concatenate(list(reader.blocks()))


@pytest.mark.parametrize(("suffix", "subtype"), [("wav", "FLOAT"), ("wav", "PCM_24"), ("flac", "PCM_16")])
def test_reads_every_sample_in_small_blocks(tmp_path: Path, suffix: str, subtype: str) -> None:
    """A file longer than a block is read in several; together they are what libsndfile reads at once."""
    path = tmp_path / f"x.{suffix}"
    soundfile.write(path, noise(audio.BLOCK_VALUES + 777, 2), 44100, subtype)
    with audio.open_audio(path) as reader:
        blocks = list(reader.blocks())
        assert (reader.samples, reader.channels, reader.sample_rate_hz) == (audio.BLOCK_VALUES + 777, 2, 44100)
    assert len(blocks) > 2
    assert max(b.size for b in blocks) <= audio.BLOCK_VALUES
    np.testing.assert_array_equal(np.concatenate(blocks), soundfile.read(path, dtype="float32")[0])
    with audio.open_audio(path) as reader:
        assert sum(map(len, reader.blocks(limit=100))) == 100


def missing(path: Path) -> None:
    pass


def folder(path: Path) -> None:
    path.mkdir()


def empty(path: Path) -> None:
    path.touch()


def text(path: Path) -> None:
    path.write_text("not audio\n" * 100)


def no_samples(path: Path) -> None:
    soundfile.write(path, np.zeros((0, 1)), 8000)


def nan(path: Path) -> None:
    x = noise(8000)
    x[6000] = np.nan
    soundfile.write(path, x, 8000, "FLOAT")


def infinite(path: Path) -> None:
    soundfile.write(path, np.full((8000, 2), np.inf, np.float32), 8000, "FLOAT")


def cut_flac(path: Path) -> None:
    soundfile.write(path, noise(200_000), 8000, format="FLAC")
    path.write_bytes(path.read_bytes()[:100_000])


def pipe(path: Path) -> None:
    os.mkfifo(path)


BAD_AUDIO: list[tuple[Callable[[Path], None], str]] = [
    (missing, "No such file"),
    (folder, "is a folder"),
    (empty, "is empty"),
    (text, "not an audio file"),
    (no_samples, "holds no samples"),
    (nan, "sample 6000 of channel 0 (at 0.750 s) is nan"),
    (infinite, "(at 0.000 s) is inf"),
    (cut_flac, "s: "),
    (pipe, "not a regular file"),
]


@pytest.mark.parametrize(("make", "message"), BAD_AUDIO, ids=lambda x: getattr(x, "__name__", ""))
def test_bad_audio_is_named_in_one_line(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    """Whoever gives a wrong file among many must learn which and why: never a traceback, never silence."""
    path = tmp_path / "bad.wav"
    make(path)
    with pytest.raises(AdjaxError) as caught:
        read_all(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_raw_extension_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.raw"
    path.write_bytes(bytes(100))
    with pytest.raises(AdjaxError, match="not an audio file"):
        read_all(path)


@settings(deadline=None, max_examples=40)
@given(
    samples=st.integers(1, 5000),
    rates=st.sampled_from([(44100, 48000), (48000, 44100), (8000, 48000), (48000, 8000), (11025, 24000)]),
    cuts=st.lists(st.integers(1, 4999), max_size=4),
    channels=st.integers(1, 3),
)
def test_resampling_is_exact_in_length_and_free_of_blocks(
    samples: int, rates: tuple[int, int], cuts: list[int], channels: int
) -> None:
    """Decoded files have their input's length only if lengths are exact, and the same codes only if blocks leave no
    trace; and one call of soxr on the whole signal is what the blocks must add up to."""
    x = noise(samples, channels)
    blocks = np.split(x, sorted({c for c in cuts if c < samples}))
    got = np.concatenate(list(audio.resample(blocks, *rates)))
    assert len(got) == audio.resampled_length(samples, *rates) == -(-samples * rates[1] // rates[0])
    whole = np.concatenate(list(audio.resample([x], *rates)))
    np.testing.assert_array_equal(got, whole)
    once = soxr.resample(x, *rates)
    n = min(len(once), len(got))
    assert len(got) - len(once) in (0, 1)
    np.testing.assert_allclose(got[:n], once[:n].reshape(n, channels), atol=1e-5)


def test_resampling_there_and_back_stays_in_step() -> None:
    """A delay of even one sample would show as an error of the order of the signal."""
    t = np.arange(16000) / 16000
    x = np.sin(2 * np.pi * 440 * t)[:, None].astype(np.float32) * np.hanning(16000)[:, None].astype(np.float32)
    there = audio.resample([x], 16000, 48000)
    back = np.concatenate(list(audio.resample(there, 48000, 16000)))
    np.testing.assert_allclose(back, x, atol=2e-4)


@settings(deadline=None)
@given(lengths=st.lists(st.integers(0, 20)), size=st.integers(1, 15))
def test_rechunk(lengths: list[int], size: int) -> None:
    """All rows, in order, in blocks of the size: a compiled step takes no other."""
    rows = np.arange(sum(lengths))[:, None]
    got = list(audio.rechunk(np.split(rows, np.cumsum(lengths)), size))
    assert all(len(b) == size for b in got[:-1])
    assert all(0 < len(b) <= size for b in got)
    np.testing.assert_array_equal(np.concatenate([rows[:0], *got]), rows)


@pytest.mark.parametrize("suffix", ["wav", "flac", "w64", "aiff"])
def test_writing_keeps_16_bit_samples(tmp_path: Path, suffix: str) -> None:
    """Reading divides by 32768; writing must multiply by the same, or every copy would lose a bit of level."""
    x = np.array([[-32768, 0], [32767, 1], [-1, 12345]], np.int16)
    with audio.AudioWriter(tmp_path / f"x.{suffix}", 48000, 2) as writer:
        writer.write(x.astype(np.float32) / 32768)
    assert writer.clipped == 0
    np.testing.assert_array_equal(soundfile.read(tmp_path / f"x.{suffix}", dtype="int16")[0], x)


@pytest.mark.parametrize("suffix", ["ogg", "opus", "mp3"])
def test_writes_lossy_formats(tmp_path: Path, suffix: str) -> None:
    x = np.sin(np.arange(48000) / 30)[:, None] * 0.5
    with audio.AudioWriter(tmp_path / f"x.{suffix}", 48000, 1) as writer:
        writer.write(x.astype(np.float32))
    decoded = read_all(tmp_path / f"x.{suffix}")
    assert len(decoded) == len(x)
    assert 10 * np.log10(np.mean(x**2) / np.mean((x - decoded) ** 2)) > 15


def test_clipping_is_counted(tmp_path: Path) -> None:
    """Integers that wrap round would turn the loudest samples into their opposites."""
    with audio.AudioWriter(tmp_path / "x.wav", 8000, 1) as writer:
        writer.write(np.array([[1.5], [-3.0], [0.5], [1.0]], np.float32))
    assert writer.clipped == 2
    assert soundfile.read(tmp_path / "x.wav", dtype="int16")[0].tolist() == [32767, -32768, 16384, 32767]


def test_failure_leaves_the_old_file(tmp_path: Path) -> None:
    """An output is replaced by a rename, so it is either the old one or the whole new one."""
    target = tmp_path / "x.wav"
    target.write_bytes(b"old")

    def fail() -> None:
        with audio.AudioWriter(target, 8000, 1) as writer:
            writer.write(np.zeros((10, 1), np.float32))
            assert len(list(tmp_path.iterdir())) == 2, "the new file grows beside the old one"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


def test_not_finite_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdjaxError, match="not finite"), audio.AudioWriter(tmp_path / "x.wav", 8000, 1) as writer:
        writer.write(np.full((10, 1), np.nan, np.float32))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["none/x.wav", "file/x.wav", "folder", "x.xyz", "x", "rate.opus"])
def test_targets_that_cannot_be(tmp_path: Path, name: str) -> None:
    """A folder that is missing, a file in a folder's place, a folder in a file's, formats unknown or too narrow."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(AdjaxError, match=str(tmp_path / name)), audio.AudioWriter(tmp_path / name, 44100, 1):
        pass
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(AdjaxError, match="Permission denied"), audio.replacing(tmp_path / "x"):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_devices_are_not_replaced() -> None:
    """A rename onto a device would put a file in its place, for the whole machine."""
    with pytest.raises(AdjaxError, match="not a regular file"), audio.replacing("/dev/full"):
        pass
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_links_and_permissions(tmp_path: Path) -> None:
    """A link goes on pointing to its file, and a new file is as readable as the user's umask lets it be."""
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with audio.replacing(tmp_path / "link") as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    (tmp_path / "plain").touch()
    assert (tmp_path / "real").stat().st_mode == (tmp_path / "plain").stat().st_mode


FULL_DISK = """
import resource, sys
import numpy as np
from adjax import audio
from adjax.errors import AdjaxError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with audio.AudioWriter(sys.argv[1], 48000, 1) as writer:
        for _ in range(int(sys.argv[2])):
            writer.write(np.full((10_000, 1), 0.1, np.float32))
except AdjaxError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are POSIX")
@pytest.mark.parametrize("blocks", ["20", "5"])
def test_full_disk(tmp_path: Path, blocks: str) -> None:
    """A limit of the file's size fails writes as a full disk does; 5 blocks exceed it by the header alone."""
    target = tmp_path / "x.wav"
    command = [sys.executable, "-c", FULL_DISK, str(target), blocks]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"{target}: "), result
    assert result.stdout.count("\n") == 1
    assert not list(tmp_path.iterdir())
