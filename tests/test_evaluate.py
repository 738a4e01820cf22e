"""`adjax evaluate`: every way in gives the same figures, and nothing that a folder holds stops it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from adjax import evaluate
from adjax.cli import main
from adjax.errors import AdjaxError
from adjax.evaluate import opus, output, run, scores, summary, systems

RATE = 8000


def voice_like(samples: int, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Harmonics of a gliding pitch in syllables, with a little noise."""
    t = np.arange(samples) / rate
    phase = 2 * np.pi * np.cumsum(120 + 20 * np.sin(2 * np.pi * t)) / rate
    tones = sum(np.sin(k * phase) / k for k in range(1, 20))
    noise = 1e-3 * np.random.default_rng(seed).standard_normal(samples)
    return (0.1 * tones * np.maximum(0, np.sin(2 * np.pi * 4 * t)) + noise).astype(np.float32)


def write(path: Path, sound: np.ndarray, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, rate, subtype="PCM_16")
    return path


@pytest.fixture(autouse=True, scope="module")
def no_world() -> Iterator[None]:
    """As if pyworld and visqol were not installed: they take most of the time, and tests/test_metrics.py tests them."""
    find = scores.optional_package
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "optional_package", lambda name: None if name == "pyworld" else find(name))
        patch.setattr(scores, "visqol", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def natural(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files, one of them in a folder below and at a rate that is not the model's."""
    folder = tmp_path_factory.mktemp("natural")
    write(folder / "one.wav", voice_like(6001))
    write(folder / "below" / "two.flac", voice_like(9000, 12000, seed=1), 12000)
    return folder


@pytest.fixture(scope="module")
def made(natural: Path, tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command's output for every kind of system."""
    folder = tmp_path_factory.mktemp("evaluation")
    options = ["--model", tiny_model, "--codebooks", "1", "3", "--opus", "12", "--decoded", f"copy={natural}"]
    command = ["evaluate", str(natural), *options, "--output", str(folder), "--save-audio", "--jobs", "1"]
    assert main(command) == 0
    return folder


@pytest.fixture(scope="module")
def results(made: Path) -> dict[str, Any]:
    return json.loads((made / "results.json").read_text())


def scores_of(results: dict[str, Any], system: str) -> list[tuple[str, dict[str, float]]]:
    return [(row["file"], row["raw"]) for row in results["rows"] if row["system"] == system]


def test_every_file_and_system_has_a_row(results: dict[str, Any]) -> None:
    names = ["tiny-spectral-1", "tiny-spectral-3", "opus-12", "copy"]
    assert [system["name"] for system in results["systems"]] == names
    rows = [(row["file"], row["system"]) for row in results["rows"]]
    assert rows == [(file, name) for file in ("below/two", "one") for name in names]
    assert not results["failures"]
    assert not results["unavailable"]


def test_a_copy_is_perfect(results: dict[str, Any]) -> None:
    """The natural files as decoded ones: no distance, SI-SDR at its bound, no lag, and no bitrate to speak of."""
    system = next(s for s in results["systems"] if s["name"] == "copy")
    means = {name: found["mean"] for name, found in system["raw"].items() if found["files"]}
    assert means["log_spectral_distance"] == means["mel_distance"] == 0
    assert means["si_sdr_db"] == scores.SI_SDR_BOUND_DB
    assert means.get("stoi", 1) == pytest.approx(1)
    assert system["lag_ms"] == 0
    assert system["payload_kbps"] is system["encode_rtf"] is None


def test_bits_spent(results: dict[str, Any]) -> None:
    """3 codes of 4 bits a frame of 20 samples, for 6001 samples up to whole frames and one more for the delay."""
    row = next(r for r in results["rows"] if (r["file"], r["system"]) == ("one", "tiny-spectral-3"))
    frames = 301 + 1
    assert row["payload_bits"] == frames * 3 * 4
    assert row["payload_kbps"] == pytest.approx(frames * 12 / (6001 / RATE) / 1000)
    assert row["file_kbps"] == pytest.approx(8 * row["file_bytes"] / (6001 / RATE) / 1000)
    assert row["file_bytes"] * 8 > row["payload_bits"]
    system = next(s for s in results["systems"] if s["name"] == "opus-12")
    assert system["payload_kbps"] == pytest.approx(12, rel=opus.TOLERANCE)


def test_codebook_use(results: dict[str, Any]) -> None:
    """Each number of codebooks is coded by itself; a stage's entropy is at most the logarithm of the codes it used."""
    few, many = (s["codebook_use"] for s in results["systems"] if s["kind"] == "model")
    assert (len(few["stages"]), len(many["stages"])) == (1, 3)
    for stage in few["stages"] + many["stages"]:
        assert 1 <= stage["used"] <= stage["size"] == 16
        assert 0 <= stage["entropy_bits"] <= np.log2(stage["used"]) + 1e-9
    uniform = summary.codebook_use(np.array([[5, 5, 5, 5], [7, 0, 0, 0]]), 100)
    assert [s["entropy_bits"] for s in uniform["stages"]] == [2, 0]
    assert uniform["entropy_kbps"] == pytest.approx(0.2)


def test_saved_audio_scores_the_same(
    made: Path, natural: Path, results: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """A model's saved audio, brought back as some codec's decoded files, is the audio that was scored."""
    folder = made / "decoded" / "tiny-spectral-3"
    items = evaluate.find_items([made / "natural"])
    again = evaluate.evaluate(items, [evaluate.decoded_system("again", str(folder), items)], jobs=1)
    assert scores_of(again, "again") == scores_of(results, "tiny-spectral-3")
    for row in results["rows"]:
        original, rate = soundfile.read(next(natural.rglob(f"{Path(row['file']).name}.*")))
        for kind in ("natural_audio", "decoded_audio"):
            saved = soundfile.info(made / row[kind])
            assert (saved.frames, saved.samplerate) == (len(original), rate)


def test_csv_agrees_with_json(made: Path, results: dict[str, Any]) -> None:
    with (made / "results.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(results["rows"])
    for line, row in zip(table, results["rows"], strict=True):
        flat = {k: v for k, v in row.items() if k in line}
        flat |= {f"{a}_{name}": value for a in summary.ALIGNMENTS for name, value in row[a].items()}
        assert {k: v for k, v in line.items() if v} == {k: str(v) for k, v in flat.items() if v is not None}


def test_tables(results: dict[str, Any]) -> None:
    """A line for each system, unknown figures as '-', and what was left out is said once."""
    text = "\n".join(output.report(results))
    assert text.count("| tiny-spectral-3 ") >= 2
    assert "| copy" in text
    quality = output.quality_table(results, "raw")
    assert quality[-1][:3] == ["copy", "-", "2"]
    assert len(output.file_table(results)) == 1 + len(results["rows"])
    lost = dict(results, unavailable=[{"file": "one", "system": "opus-12", "reason": "because"}])
    assert "opus-12: only 2 files could be coded so; for example: because" in list(output.notes(lost))


@pytest.mark.parametrize("shift", [0, 1, 57, -57])
def test_lag_is_found_and_undone(shift: int) -> None:
    """A delayed copy is found at its delay, later or earlier, and is perfect once that is undone."""
    sound = voice_like(8200)
    natural, decoded = sound[100:8100, None], sound[100 - shift : 8100 - shift, None]
    assert scores.find_lag(natural, 0.5 * decoded, 80) == shift
    found = scores.Scorer(natural, RATE).scores(decoded, shift)
    assert found["log_spectral_distance"] == 0
    assert found["si_sdr_db"] == scores.SI_SDR_BOUND_DB


def test_silence_has_no_lag() -> None:
    silence = np.zeros((800, 1), np.float32)
    assert scores.find_lag(silence, voice_like(800)[:, None], 10) is None
    assert scores.find_lag(voice_like(800)[:, None], silence, 10) is None


def test_one_lag_for_a_system(tmp_path: Path) -> None:
    """Files that are all 5 samples late, but for an outlier, are compensated by 5 samples: the median."""
    for i, late in enumerate((5, 5, 40)):
        sound = voice_like(4000, seed=i)
        write(tmp_path / "natural" / f"{i}.wav", sound)
        write(tmp_path / "decoded" / f"{i}.wav", np.concatenate([np.zeros(late, np.float32), sound]))
    items = evaluate.find_items([tmp_path / "natural"])
    found = evaluate.evaluate(items, [evaluate.decoded_system("late", str(tmp_path / "decoded"), items)], jobs=1)
    assert found["systems"][0]["lag_ms"] == pytest.approx(5 / 8)
    perfect = [row["compensated"]["si_sdr_db"] == scores.SI_SDR_BOUND_DB for row in found["rows"]]
    assert perfect == [True, True, False]
    assert all(row["raw"]["si_sdr_db"] < 30 for row in found["rows"])


def test_bootstrap_interval() -> None:
    """Seeded, around the mean, nothing for one value, narrower by about the root of the number of values."""
    values = np.random.default_rng(1).standard_normal(400)
    few, many = summary.mean_with_interval(list(values[:25])), summary.mean_with_interval(list(values))
    assert few == summary.mean_with_interval(list(values[:25]))
    for found in (few, many):
        assert found["low"] < found["mean"] < found["high"]
    assert (few["high"] - few["low"]) / (many["high"] - many["low"]) == pytest.approx(4, rel=0.3)
    expected = 2 * 1.96 * values.std() / 20  # the normal approximation
    assert many["high"] - many["low"] == pytest.approx(expected, rel=0.05)
    assert summary.mean_with_interval([3.0] * 5) == {"mean": 3, "low": 3, "high": 3, "files": 5}
    assert summary.mean_with_interval([3.0]) == {"mean": 3, "low": None, "high": None, "files": 1}
    assert summary.mean_with_interval([]) == {"mean": None, "low": None, "high": None, "files": 0}


def test_a_missing_package_is_said_once(natural: Path) -> None:
    """Its metrics are left out of the tables, and one line says why."""
    items = evaluate.find_items([natural], limit=1)
    found = evaluate.evaluate(items, [evaluate.decoded_system("copy", str(natural), items)], jobs=1)
    text = "\n".join(evaluate.report(found))
    assert text.count("pyworld") == 1
    assert "MCD, F0 RMSE, U/V error (pyworld)" in text
    assert not any("MCD" in cell for cell in output.quality_table(found, "raw")[0])


def test_bad_files_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that is damaged and one too short fail by name, with exit status 1; the third is evaluated all the same."""
    folder = tmp_path / "natural"
    write(folder / "good.wav", voice_like(2400))
    write(folder / "short.wav", voice_like(100))
    (folder / "broken.wav").write_bytes(b"RIFF, but not really")
    command = ["evaluate", str(folder), "--opus", "12", "--jobs", "1", "--output", str(tmp_path / "out")]
    assert main(command) == 1
    printed = capsys.readouterr()
    assert "2 of 3 files could not be evaluated" in printed.err
    assert "broken.wav: not an audio file" in printed.err
    assert "short.wav: too short" in printed.err
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["file"] for row in found["rows"]] == ["good"]
    assert [lost["file"] for lost in found["failures"]] == ["broken", "short"]
    lines = (tmp_path / "out" / "results.csv").read_text().splitlines()
    assert len(lines) == 4


def test_robust_signals(tiny_model: str, tmp_path: Path) -> None:
    """Whatever a folder holds: finite figures, means over as many files as have a value, and no failure."""
    rng = np.random.default_rng(0)
    signals = {
        "silence": (np.zeros(2400), RATE),
        "clipping": (np.sign(voice_like(2400)), RATE),
        "noise": (0.3 * rng.standard_normal(2400), RATE),
        "impulse": (np.eye(1, 2400, 1200)[0], RATE),
        "constant": (np.full(2400, 0.5), RATE),
        "low": (voice_like(1200, 4000), 4000),
        "high": (voice_like(19200, 96000), 96000),
        "half-silent": (np.stack([voice_like(2400), np.zeros(2400)], 1), RATE),
    }
    for name, (sound, rate) in signals.items():
        write(tmp_path / f"{name}.wav", np.clip(sound, -1, 1), rate)
    items = evaluate.find_items([tmp_path])
    every = [*evaluate.model_systems([tiny_model], [3]), *evaluate.opus_systems([12])]
    found = evaluate.evaluate(items, every, jobs=1)
    assert not found["failures"]
    json.dumps(found, allow_nan=False)
    assert "nan" not in "\n".join(evaluate.report(found)).lower()
    model = found["systems"][0]
    assert model["files"] == len(signals)
    assert model["raw"]["log_spectral_distance"]["files"] == len(signals)
    assert model["raw"]["si_sdr_db"]["files"] == len(signals) - 2, "silence has no SI-SDR, in one channel or in all"
    silence = next(r for r in found["rows"] if r["file"] == "silence" and r["system"] == model["name"])
    assert {"pesq_wb", "stoi", "si_sdr_db", "f0_rmse_hz"}.isdisjoint(silence["raw"])
    assert silence["lag_ms"] is None


@pytest.mark.slow
def test_processes_give_the_same(tmp_path: Path) -> None:
    """Two processes, the same rows in the same order, but for the metrics that this module hides from its own."""
    for i in range(3):
        write(tmp_path / f"{i}.wav", voice_like(900, seed=i))
    items = evaluate.find_items([tmp_path])
    every = [evaluate.decoded_system("copy", str(tmp_path), items)]
    one, two = (evaluate.evaluate(items, every, jobs=jobs) for jobs in (1, 2))
    shown = {name for name in one["rows"][0]["raw"]}
    for row in two["rows"]:
        for alignment in summary.ALIGNMENTS:
            row[alignment] = {name: value for name, value in row[alignment].items() if name in shown}
    assert one["rows"] == two["rows"]


def test_opus_bitrate_is_what_packets_hold(tmp_path: Path) -> None:
    """The search ends near the bitrate asked for; where Opus spends less, as on silence, that is an error, no row."""
    noise = (0.1 * np.random.default_rng(0).standard_normal((RATE, 2))).astype(np.float32)
    made = opus.encode(tmp_path / "x.opus", noise, RATE, 16)
    assert made.payload_bits / 2 / 1000 == pytest.approx(16, rel=opus.TOLERANCE)
    with pytest.raises(opus.UnavailableError, match="not 24"):
        opus.encode(tmp_path / "x.opus", np.zeros((RATE, 1), np.float32), RATE, 24)
    with pytest.raises(opus.UnavailableError, match="not 3"):
        opus.encode(tmp_path / "x.opus", noise, RATE, 3)


def test_ogg_packets_by_hand() -> None:
    """Lacing values of 255 go on with a packet, also on the next page; the two headers do not count."""

    def page(*lacing: int) -> bytes:
        return b"OggS" + bytes(22) + bytes([len(lacing), *lacing]) + bytes(sum(lacing))

    assert opus.packet_bytes(page(19) + page(255, 255) + page(40) + page(100, 255, 3) + page(7)) == 365
    with pytest.raises(AdjaxError, match="byte 47"):
        opus.packet_bytes(page(19) + b"nothing")


def test_decoded_folders_that_do_not_fit(natural: Path, tmp_path: Path) -> None:
    """A missing, an ambiguous and a foreign file are each named."""
    items = evaluate.find_items([natural])
    with pytest.raises(AdjaxError, match="no such folder"):
        evaluate.decoded_system("x", str(tmp_path / "nowhere"), items)
    write(tmp_path / "two.wav", voice_like(9000), 12000)
    with pytest.raises(AdjaxError, match="no decoded file of 'one'"):
        evaluate.decoded_system("x", str(tmp_path), items)
    write(tmp_path / "one.wav", voice_like(12001))  # 0.75 s longer
    found = evaluate.evaluate(items, [evaluate.decoded_system("x", str(tmp_path), items)], jobs=1)
    assert [row["file"] for row in found["rows"]] == ["below/two"]
    assert "0.75 s longer than the natural file" in found["failures"][0]["reason"]
    write(tmp_path / "one.flac", voice_like(6001))
    with pytest.raises(AdjaxError, match=r"cannot tell.*'one'"):
        evaluate.decoded_system("x", str(tmp_path), items)
    with pytest.raises(AdjaxError, match="2 channels"):
        systems.read_decoded(write(tmp_path / "s.wav", np.zeros((100, 2))), np.zeros((100, 1)), RATE)


def test_names_of_files(tmp_path: Path) -> None:
    """Relative and without extension; with their folder's name where several folders share them."""
    for name in ("a/x.wav", "b/x.wav", "b/y.wav"):
        write(tmp_path / name, voice_like(400))
    assert [i.name for i in evaluate.find_items([tmp_path])] == ["a/x", "b/x", "b/y"]
    assert [i.name for i in evaluate.find_items([tmp_path / "b"], limit=1)] == ["x"]
    assert [i.name for i in evaluate.find_items([tmp_path / "a", tmp_path / "b"])] == ["a/x", "b/x", "b/y"]
    write(tmp_path / "b" / "y.flac", voice_like(400))
    with pytest.raises(AdjaxError, match="both would be called 'b/y'"):
        evaluate.find_items([tmp_path / "b"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(AdjaxError, match="no audio files"):
        evaluate.find_items([tmp_path / "empty"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "FOLDER"], "no folder of natural speech"),
        (["FOLDER", "--save-audio"], "--save-audio needs a folder"),
        (["FOLDER", "--plot"], "--plot needs a folder"),
        (["FOLDER", "--decoded", "elsewhere"], "NAME=FOLDER"),
        (["FOLDER", "--decoded", "../x=FOLDER"], "cannot name a system"),
        (["FOLDER", "--opus", "12", "12"], "two systems are called 'opus-12'"),
        (["FOLDER", "--model", "MODEL", "--codebooks", "4"], "has 1 to 3"),
    ],
)
def test_wrong_usage(
    options: list[str], message: str, natural: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that says what would be right."""
    options = [o.replace("FOLDER", str(natural)).replace("MODEL", tiny_model) for o in options]
    assert main(["evaluate", *options]) == 1
    assert message in capsys.readouterr().err


def test_plots(results: dict[str, Any], tmp_path: Path) -> None:
    """A line through a model's systems, others by themselves; both files are pictures."""
    pytest.importorskip("matplotlib")
    from adjax.evaluate import plots

    results = dict(results, metrics=results["metrics"][:2])
    lines = plots.series(results["systems"])
    assert [len(line) for line in lines.values()] == [2, 1, 1]
    assert list(lines) == ["tiny-spectral", "Opus", "copy"]
    png, svg = plots.write_plots(results, tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in svg.read_text()


def test_jobs_default_to_cores() -> None:
    assert run.available_cores() >= 1
