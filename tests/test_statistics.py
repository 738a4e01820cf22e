"""Statistics of latents: exact moments in chunks, the file they are kept in, and the command that makes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from adjax.cli import main
from adjax.errors import AdjaxError
from adjax.latent_statistics import read_latent_statistics
from adjax.train.prepare import prepare
from adjax.train.statistics import Moments


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any), st.floats(-1e4, 1e4), st.integers(0, 99))
def test_moments_do_not_depend_on_chunks(sizes: list[int], offset: float, seed: int) -> None:
    """Merged moments are those of all vectors at once, far from zero too, where summed squares would cancel."""
    vectors = np.random.default_rng(seed).standard_normal((sum(sizes), 3)) + offset
    moments = Moments(3)
    for chunk in np.split(vectors, np.cumsum(sizes)[:-1]):
        moments.add(chunk.reshape(1, -1, 3))
    assert moments.count == len(vectors)
    np.testing.assert_allclose(moments.mean, vectors.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(moments.deviation, vectors.std(axis=0), rtol=1e-9, atol=1e-10)


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of three lengths, none a whole number of hops; one file in stereo, one at another rate."""
    folder = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    for name, shape, rate in (("a", (20011,), 8000), ("b", (3001, 2), 8000), ("c", (5003,), 16000)):
        soundfile.write(folder / f"{name}.wav", 0.1 * rng.standard_normal(shape), rate, subtype="FLOAT")
    return folder


def test_the_command_is_exact(audio: Path, tiny_model: str, tiny_codec: Any, tmp_path: Path, capsys: Any) -> None:
    """Streamed moments of zq are numpy's of the whole files, coded at once, every channel a signal of its own."""
    target = tmp_path / "stats.npy"
    assert main(["statistics", tiny_model, str(audio), "--output", str(target)]) == 0
    embed = np.asarray(tiny_codec.tree["codebook"]["quantizer"]["embed"])
    latents = []
    for name in ("a", "b"):
        sound, _ = soundfile.read(audio / f"{name}.wav", dtype="float32", always_2d=True)
        codes = np.asarray(tiny_codec.encode(sound.T[..., None]))
        latents.append(sum(embed[i][codes[..., i]] for i in range(len(embed))).reshape(-1, embed.shape[-1]))
    (audio / "list.txt").write_text("a.wav\nb.wav\n")
    assert main(["statistics", tiny_model, str(audio / "list.txt"), "--output", str(tmp_path / "two.npy")]) == 0
    assert "2 files" in capsys.readouterr().out
    table = np.load(tmp_path / "two.npy")
    zq = np.concatenate(latents).astype(np.float64)
    np.testing.assert_allclose(table, [zq.mean(axis=0), zq.std(axis=0)], rtol=1e-6, atol=1e-7)
    whole = read_latent_statistics(target, embed.shape[-1])
    assert whole["scale"].dtype == np.float32
    assert not np.array_equal(whole["mean"], table[0])  # the resampled file counts too


def test_unusable_statistics(audio: Path, tiny_model: str, tmp_path: Path, capsys: Any) -> None:
    """Latents that never change have no deviation to divide by: the command says so and writes nothing."""
    soundfile.write(tmp_path / "silence.wav", np.zeros(20), 8000)  # a single frame
    assert main(["statistics", tiny_model, str(tmp_path / "silence.wav"), "--output", str(tmp_path / "s.npy")]) == 1
    assert "never change" in capsys.readouterr().err
    assert not (tmp_path / "s.npy").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; `adjax statistics` writes it"),
        (np.ones((2, 5), np.float32), r"floats of shape \(2, 6\)"),
        (np.ones((2, 6), np.int32), r"floats of shape \(2, 6\)"),
        (np.zeros((2, 6), np.float32), "positive standard deviations"),
        (np.full((2, 6), np.nan, np.float32), "finite means"),
        (np.full((2, 6), None), "holds object"),
        (b"junk", "is not a .npy file"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1000000000000), }\n", "damaged"),
    ],
)
def test_files_that_hold_no_statistics(content: Any, message: str, tmp_path: Path) -> None:
    """Each is refused by name; pickled objects are never run, and a header that promises terabytes takes no memory."""
    path = tmp_path / "stats.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(AdjaxError, match=message):
        read_latent_statistics(path, 6)


def test_a_prepared_set_gives_the_statistics_of_its_folder(tiny_model: str, tmp_path: Path) -> None:
    """Prepared at the model's rate from 16-bit files it holds the same samples, across segments too."""
    rng, folder = np.random.default_rng(1), tmp_path / "speech"
    folder.mkdir()
    for name, samples in (("a", 20011), ("b", 8000), ("c", 333)):
        soundfile.write(folder / f"{name}.wav", 0.1 * rng.standard_normal(samples), 8000, subtype="PCM_16")
    prepare([folder], tmp_path / "set", validation_share=0.0, workers=1)
    for paths, target in ((folder, "folder.npy"), (tmp_path / "set", "set.npy")):
        assert main(["statistics", tiny_model, str(paths), "--output", str(tmp_path / target)]) == 0
    np.testing.assert_allclose(np.load(tmp_path / "set.npy"), np.load(tmp_path / "folder.npy"), rtol=1e-6, atol=1e-7)
