"""A symAD that starts as a transform coder passes on what it should: low bands as they are, levels above them."""

import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import pytest
import soundfile

from adjax import weights
from adjax.cli.training import read_config
from adjax.models.codec import Codec

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "transform_start.py"
RATE_HZ, HOP, SAMPLES = 48000, 300, 24000
SILENT = -8.0  # a level, natural logarithm over its mean
QUIETER_DB = 14  # what is coded is made louder then


@pytest.fixture(scope="module")
def start() -> dict[str, Any]:
    """The script's names, and its sparse variables fitted to noise with the spectrum of speech that comes and goes."""
    names = runpy.run_path(str(SCRIPT))
    sigma = weights.load_model(weights.find_model("spectral48"))[1]["stats"]["encoder"]["sigma"]
    noise = np.fft.rfft(np.random.default_rng(0).normal(size=SAMPLES))
    noise *= np.interp(np.arange(len(noise)) * HOP / len(noise), np.arange(HOP) + 0.5, sigma)
    swell = 1.1 + np.sin(2 * np.pi * 3 * np.arange(SAMPLES) / RATE_HZ)
    audio = (0.5 * swell * np.fft.irfft(noise)).astype(np.float32)[None, :, None]
    return {**names, "audio": audio, "variables": names["started"](audio), "DELAY": names["MODEL"].delay_samples}


@pytest.fixture(scope="module")
def vocoder() -> dict[str, Any]:
    """The names of the script that writes vocoders, which imports the other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        return runpy.run_path(str(SCRIPT.with_name("transform_vocoder.py")))


def tone(hz: float, amplitude: float) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(SAMPLES) / RATE_HZ)).astype(np.float32)[None, :, None]


def decode(start: dict[str, Any], latents: Any) -> np.ndarray:
    """[batch, samples], without the delay."""
    return np.asarray(start["decoded"](start["variables"], latents))[:, start["DELAY"] :, 0]


def test_low_frequencies_come_back(start: dict[str, Any]) -> None:
    audio = tone(220, 0.1) + tone(1130, 0.05)
    latents = np.array(start["latents"](start["variables"], audio))
    latents[..., -start["LEVELS"] : -1] = SILENT * start["LEVEL_WEIGHTS"][:-1]
    error = (decode(start, latents) - audio[:, : -start["DELAY"], 0])[:, 2 * HOP :]
    assert np.sum(error**2) < 10 ** (-25 / 10) * np.sum(audio**2)


def test_levels_are_natural_logarithms(start: dict[str, Any]) -> None:
    quiet, loud = (
        np.asarray(start["latents"](start["variables"], tone(5000, a)))[0, 10:, -start["LEVELS"] :]
        for a in (0.0003, 0.003)
    )
    band = quiet.mean(axis=0).argmax()
    difference = (loud - quiet)[:, band].mean() / start["LEVEL_WEIGHTS"][band]
    assert difference == pytest.approx(np.log(10), rel=0.15)


def test_quiet_speech_is_coded_louder_and_comes_back_as_quiet(start: dict[str, Any]) -> None:
    loud, quiet = (tone(700, 0.1) * 10 ** (-db / 20) for db in (0, QUIETER_DB))
    coded = [np.array(start["latents"](start["variables"], x))[:, 20:, : start["LOWEST"]].std() for x in (loud, quiet)]
    assert 1.5 < coded[1] / coded[0] * 10 ** (QUIETER_DB / 20) < 10 ** (QUIETER_DB / 20)
    for audio in (loud, quiet):
        latents = np.array(start["latents"](start["variables"], audio))
        latents[..., -start["LEVELS"] : -1] = SILENT * start["LEVEL_WEIGHTS"][:-1]
        error = (decode(start, latents) - audio[:, : -start["DELAY"], 0])[:, 20 * HOP :]
        assert np.sum(error**2) < 10 ** (-25 / 10) * np.sum(audio**2)


def test_a_sparse_start_codes_what_a_full_one_does(start: dict[str, Any]) -> None:
    """Weights that are left out change nothing, and are nearly all."""
    rng, encoder = np.random.default_rng(0), start["variables"]["params"]["encoder"]
    full = {part: {**tree} for part, tree in start["variables"]["params"].items()}
    full["encoder"] = jax.tree.map(lambda x: 0.01 * rng.normal(size=x.shape).astype(np.float32), encoder)
    start["start_encoder"](full, start["any_speech"](), rng)
    audio = tone(220, 0.1) + tone(1130, 0.05)
    every = [start["variables"], {**start["variables"], "params": full}]
    sparse, dense = (np.asarray(start["latents"](v, audio))[..., : start["LOWEST"]] for v in every)
    np.testing.assert_allclose(sparse, dense, atol=1e-5 * abs(dense).max())
    used, in_all = (sum(map(f, jax.tree.leaves(encoder))) for f in (np.count_nonzero, np.size))
    assert used < 0.03 * in_all


def test_published_padding_makes_all_codes_later(start: dict[str, Any]) -> None:
    """Convolutions that see only the first sample of their hop: the same latents, of audio a hop less a sample late."""
    model = start["MODEL"]
    published = Codec(replace(model, encoder=replace(model.encoder, aligned=False)))
    made = jax.jit(lambda variables, audio: published.apply(variables, audio, method="latents"))(
        start["variables"], start["audio"]
    )
    late = np.pad(start["audio"], ((0, 0), (HOP - 1, 0), (0, 0)))[:, :SAMPLES]
    np.testing.assert_allclose(made, start["latents"](start["variables"], late), atol=1e-4)


@pytest.mark.slow
def test_random_weights_are_where_they_are_asked_for(start: dict[str, Any]) -> None:
    """Elsewhere every bit stays, so that codes are those of the sparse start; nor do they touch what is written."""
    params = start["variables"]["params"]
    filled = start["filled"](start["variables"], ("decoder",))["params"]
    for part in params:
        one, other = (np.concatenate([x.ravel() for x in jax.tree.leaves(tree[part])]) for tree in (params, filled))
        np.testing.assert_array_equal(one[one != 0], other[one != 0])
        assert (np.count_nonzero(other) > 5 * np.count_nonzero(one)) == (part == "decoder")
        assert (one == other).all() == (part != "decoder")


@pytest.mark.slow
def test_codebooks_are_of_the_latents(start: dict[str, Any]) -> None:
    start["fit_codebooks"](start["variables"], np.tile(start["audio"], (16, 1, 1)))
    books = start["variables"][start["CODEBOOK"]]["quantizer"]
    latents = np.asarray(start["latents"](start["variables"], start["audio"]))[0, 10:, : start["LOWEST"]]
    nearest = ((latents[:, None] - books["embed"][0][None, :, : start["LOWEST"]]) ** 2).sum(-1).min(-1)
    assert nearest.mean() < 0.5 * (latents**2).sum(-1).mean()


def test_too_little_speech_for_codebooks_is_refused(start: dict[str, Any]) -> None:
    with pytest.raises(start["AdjaxError"], match="codebooks need 6 s of speech"):
        start["fit_codebooks"](start["variables"], start["audio"])


@pytest.mark.parametrize("gain", [1.0, 0.3])
def test_noise_is_as_loud_as_what_it_stands_for(start: dict[str, Any], gain: float) -> None:
    audio = gain * start["audio"]
    made = decode(start, start["latents"](start["variables"], audio))
    difference = start["mean_spectrum"](made) - start["mean_spectrum"](audio[:, : -start["DELAY"], 0])
    assert np.abs(difference).mean() < 0.15


def test_speech_at_another_rate_is_refused(start: dict[str, Any], tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(64000), 16000)
    with pytest.raises(start["AdjaxError"], match="no file of 48000 Hz"):
        start["crops"]([str(tmp_path)], SAMPLES)


@pytest.mark.parametrize("slope", [0.0, 0.1, 0.5])
def test_piecewise_linear_functions(vocoder: dict[str, Any], slope: float) -> None:
    knots, values = np.array([-2.0, -1.0, 0.5, 3.0]), np.array([0.5, 2.0, -1.0, 4.0])
    function = vocoder["Function"].through(knots, values, slope)
    x = np.linspace(-9, 9, 200)
    y = x[:, None] - function.knots
    expected = np.where(x > 3, 4 + 2 * (x - 3), np.interp(x, knots, values))
    np.testing.assert_allclose(np.where(y > 0, y, slope * y) @ function.weights + function.constant, expected)


def test_a_vocoder_makes_what_the_start_makes(start: dict[str, Any], vocoder: dict[str, Any]) -> None:
    """Of the same latents: the same low frequencies, and noise as loud, of other signs."""
    model = read_config(ROOT / "configs" / "symad48_transform_v2.py").model
    variables = vocoder["vocoder_of"](start["variables"], model, True)

    @jax.jit
    def decoded(latents: jax.Array) -> jax.Array:
        made = cast(jax.Array, Codec(model).apply(variables, latents, method="decode_latents"))
        return made[:, start["DELAY"] :, 0]

    latents = np.array(start["latents"](start["variables"], start["audio"]))
    expected, made = start["mean_spectrum"](decode(start, latents)), start["mean_spectrum"](decoded(latents))
    assert abs(made - expected).mean() < 0.15
    latents[..., -start["LEVELS"] : -1] = SILENT * start["LEVEL_WEIGHTS"][:-1]
    expected, made = decode(start, latents)[:, 2 * HOP :], decoded(latents)[:, 2 * HOP :]
    assert np.sum((made - expected) ** 2) < 10 ** (-25 / 10) * np.sum(expected**2)


def test_a_vocoder_is_written_from_starts_only(
    vocoder: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["transform_vocoder.py", str(tmp_path / "out"), "--start", "spectral24"])
    with pytest.raises(SystemExit):
        vocoder["main"]()
    assert "spectral24: not a model of scripts/transform_start.py" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_starts_are_made_of_the_package_s_model(start: dict[str, Any], tmp_path: Path) -> None:
    """Without speech: many more weights of the decoder, the same codebooks, latents and low frequencies."""
    subprocess.run([sys.executable, SCRIPT, tmp_path / "full"], check=True, cwd=ROOT)
    variables, shipped = (
        weights.load_model(weights.find_model(m))[1] for m in (tmp_path / "full", "symad48-transform")
    )
    used, before = (sum(map(np.count_nonzero, jax.tree.leaves(v["params"]["decoder"]))) for v in (variables, shipped))
    assert used > 20 * before
    np.testing.assert_array_equal(*(v["codebook"]["quantizer"]["embed"] for v in (variables, shipped)))
    audio = tone(220, 0.1) + tone(1130, 0.05)
    coded = [np.array(start["latents"](v, audio)) for v in (variables, shipped)]
    np.testing.assert_allclose(*coded, atol=1e-4 * abs(coded[1]).max())
    coded[0][..., -start["LEVELS"] : -1] = SILENT * start["LEVEL_WEIGHTS"][:-1]
    made, expected = (np.asarray(start["decoded"](v, coded[0])) for v in (variables, shipped))
    assert np.sum((made - expected) ** 2) < 1e-3 * np.sum(expected**2)
