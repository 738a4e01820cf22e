"""The command line: light help, one-line errors with the right exit status, and files that hold what they should."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
import pytest
import soundfile

import adjax
from adjax import cache, weights, zoo
from adjax.cli import coding, main, training
from adjax.errors import AdjaxError
from adjax.strict_json import to_json
from tests.conftest import TINY_CONV, TINY_SPECTRAL, fill

COMMANDS = (
    *("models", "encode", "decode", "roundtrip", "info", "live", "send", "receive", "train", "statistics"),
    *("prepare", "evaluate", "benchmark", "export", "import-torch", "export-torch"),
)


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The persistent cache is a setting of the whole process, which other tests must not inherit."""
    monkeypatch.setenv("ADJAX_CACHE_DIR", "")


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    x = 0.1 * np.random.default_rng(0).standard_normal((9001, 2))
    soundfile.write(tmp_path / "in.wav", x, 8000)
    return tmp_path / "in.wav"


@pytest.fixture
def stream(speech: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["encode", str(speech), "--model", tiny_model]) == 0
    capsys.readouterr()
    return speech.with_suffix(".adjx")


def failure(arguments: list[Any], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command fails with."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("adjax: error: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


# ------------------------------------------------------------------------------------------------- help and usage

HELP = """
import sys
import time
from adjax.cli import main
for command in sys.argv[1:]:
    try:
        main([*command.split(), "--help"])
    except SystemExit as stop:
        assert stop.code == 0
heavy = {"jax", "numpy", "soundfile", "PIL", "tqdm"} & set(sys.modules)
assert not heavy, heavy
"""


def test_help_is_light() -> None:
    """Help must come at once, which it cannot where jax or numpy is imported on the way."""
    command = [sys.executable, "-c", HELP, "", *COMMANDS]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert result.returncode == 0, result.stderr
    for name in COMMANDS:
        assert f"usage: adjax {name}" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["sing"],
        ["encode"],
        ["encode", "a", "b", "c"],
        ["encode", "a", "--codebooks", "0"],
        ["encode", "a", "--bits", "3"],
        ["info", "a", "b"],
        ["decode", "a", "--rate", "fast"],
        ["import-torch", "out"],
    ],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, so that scripts can tell a wrong call from a wrong file."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: adjax" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"adjax {adjax.__version__}\n"


# ---------------------------------------------------------------------------------------------------------- coding


def test_encode_info_decode(speech: Path, tiny_model: str, tiny_codec: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Default names stand beside the input, OUT may stand behind options, decoded files have the input's shape."""
    assert main(["encode", str(speech), "--model", tiny_model]) == 0
    stream = speech.with_suffix(".adjx")
    text = capsys.readouterr().out
    assert str(stream) in text
    assert "9001 samples, 2 channels, 8000 Hz" in text
    kbps = 8 * stream.stat().st_size / (9001 / 8000) / 1000
    assert f"file {kbps:.2f} kbps" in text

    assert main(["info", str(stream), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["samples"], facts["channels"], facts["model"]) == (9001, 2, "tiny-spectral")
    assert (facts["fingerprint"], facts["damage"]) == (tiny_codec.fingerprint.hex(), [])
    assert facts["duration_s"] == pytest.approx(9001 / 8000, abs=1e-3)
    assert main(["info", str(stream)]) == 0
    assert "every block is intact" in capsys.readouterr().out

    out = speech.with_name("out.flac")
    assert main(["decode", str(stream), "--model", tiny_model, str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    assert soundfile.info(out).frames == 9001
    speech.unlink()
    assert main(["decode", str(stream), "--model", tiny_model]) == 0
    assert soundfile.info(speech).channels == 2


def test_roundtrip(speech: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = speech.with_name("out.wav")
    assert main(["roundtrip", str(speech), str(out), "--model", tiny_model, "--codebooks", "2"]) == 0
    text = capsys.readouterr().out
    for what in ("payload", "x real time", "LSD", "SI-SDR", str(out.with_suffix(".png"))):
        assert what in text
    assert soundfile.info(out).frames == 9001
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_quiet_in_a_pipe(speech: Path, tiny_model: str, tmp_path: Path) -> None:
    """As a program of its own: nothing but the report, on standard output, and a compilation cache that is filled."""
    environment = {**os.environ, "ADJAX_CACHE_DIR": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # the tests' own, which a user has not
    command = [sys.executable, "-m", "adjax", "encode", str(speech), "--model", tiny_model]
    root = Path(__file__).parents[1]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("\n") == 3
    assert list((tmp_path / "cache" / "xla").iterdir())


def test_progress_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar counts seconds, and goes back to the start where a second pass begins."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with coding.progress_bar("encoding") as progress:
        assert progress is not None
        progress(3.2, 10.0)
        progress(10.0, 10.0)
        progress(1.0, None)
    assert "encoding" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------- errors


def test_bad_inputs(speech: Path, tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("text " * 100)
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0), 8000)
    soundfile.write(tmp_path / "nan.wav", np.full(800, np.nan), 8000, "FLOAT")
    before = sorted(tmp_path.iterdir())
    for name, message in [
        ("none.wav", "No such file"),
        (".", "is a folder"),
        ("empty.wav", "is empty"),
        ("text.wav", "not an audio file"),
        ("nothing.wav", "holds no samples"),
        ("nan.wav", "is nan"),
    ]:
        for command in ("encode", "roundtrip"):
            line = failure([command, tmp_path / name, tmp_path / "out.wav", "--model", tiny_model], capsys)
            assert message in line
            assert str(tmp_path / name) in line
    assert "1 to 3" in failure(["encode", speech, "--model", tiny_model, "--codebooks", 9], capsys)
    assert "no model 'nosuch'" in failure(["encode", speech, "--model", "nosuch"], capsys)
    assert "is the input itself" in failure(["encode", speech, speech, "--model", tiny_model], capsys)
    assert "no-folder" in failure(["encode", speech, tmp_path / "no-folder" / "x.adjx", "--model", tiny_model], capsys)
    assert sorted(tmp_path.iterdir()) == before


def test_bad_bitstreams(stream: Path, tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.wav"
    bad = tmp_path / "bad.adjx"
    assert "is there already" in failure(["decode", stream, "--model", tiny_model], capsys)
    assert "extension '.xyz'" in failure(["decode", stream, tmp_path / "x.xyz", "--model", tiny_model], capsys)
    assert "No such file" in failure(["decode", bad, "--model", tiny_model], capsys)
    assert "not an .adjx file" in failure(["decode", tmp_path / "in.wav", out, "--model", tiny_model], capsys)
    weights.save_model(tmp_path / "other", TINY_SPECTRAL, fill(TINY_SPECTRAL, seed=1))
    line = failure(["decode", stream, out, "--model", tmp_path / "other"], capsys)
    assert "give the model it was encoded with as --model" in line
    data = bytearray(stream.read_bytes())
    data[len(data) // 2] ^= 4
    bad.write_bytes(data)
    assert "block 0" in failure(["decode", bad, out, "--model", tiny_model], capsys)
    assert not out.exists()
    assert main(["info", str(bad)]) == 1
    captured = capsys.readouterr()
    assert "block 0" in captured.out
    assert "tiny-spectral" in captured.out
    assert captured.err.startswith(f"adjax: error: {bad}: damaged")
    assert main(["decode", str(bad), str(out), "--model", tiny_model, "--skip-damaged"]) == 0
    assert "adjax: warning: " in capsys.readouterr().err
    bad.write_bytes(data[:90])
    assert "truncated" in failure(["decode", bad, tmp_path / "y.wav", "--model", tiny_model], capsys)
    assert main(["info", str(bad)]) == 1
    bad.write_bytes(b"")
    assert "not an .adjx file" in failure(["info", bad], capsys)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (KeyError("x"), 1, "adjax: error: unexpected KeyError: 'x'; --debug shows where"),
        (MemoryError(), 1, "adjax: error: out of memory; shorter inputs, smaller batches or fewer channels take less"),
        (OSError(28, "No space left on device", "/f"), 1, "adjax: error: /f: No space left on device"),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            1,
            "adjax: error: the Python package 'torch' is",
        ),
        (AdjaxError("two\nlines"), 1, "adjax: error: two lines"),
        (KeyboardInterrupt(), 130, "adjax: interrupted"),
    ],
)
def test_every_failure_is_one_line(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any) -> NoReturn:
        raise error

    monkeypatch.setattr("adjax.cli.models.info", fail)
    assert main(["info", "x"]) == status
    captured = capsys.readouterr().err
    assert captured.startswith(line)
    assert captured.count("\n") == 1
    for debug in (["--debug", "info", "x"], ["info", "x", "--debug"]):
        if status == 1:
            with pytest.raises(type(error)):
                main(debug)


# ---------------------------------------------------------------------------------------------------------- models


def test_models(capsys: pytest.CaptureFixture[str], tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published figures: 12.8 kbps at a hop of 300 at 48 kHz; a hop more of latency where the model has one."""
    monkeypatch.setattr(weights, "checkpoint_folders", lambda: [Path(tiny_model).parent])
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == {*zoo.MODELS, "tiny-spectral"}
    assert (rows["symad48"]["kbps"], rows["symad48"]["latency_ms"]) == (12.8, 6.25)
    assert rows["spectral48"]["latency_ms"] == 12.5
    assert [name for name, row in rows.items() if row["included"]] == ["tiny-spectral"]
    assert [name for name, row in rows.items() if row["default"]] == [zoo.DEFAULT_MODEL]
    assert rows["tiny-spectral"]["parameters"] == adjax.load(tiny_model).num_parameters
    assert main(["models"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == len(rows) + 2
    assert "12.80" in table[1]


def test_torch_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is exported is imported with the same encoder and codebooks: the fingerprint says so."""
    model = replace(TINY_CONV, name="small", encoder=replace(TINY_CONV.encoder, aligned=False))
    variables = fill(model)
    weights.save_model(tmp_path / "small", model, variables)
    assert main(["export-torch", str(tmp_path / "small"), str(tmp_path / "torch"), "--steps", "7"]) == 0
    checkpoint = Path(capsys.readouterr().out.strip())
    assert checkpoint.name == "checkpoint-7steps.pkl"
    back = str(tmp_path / "back")
    command = ["import-torch", "--encoder", str(checkpoint), "--decoder", str(checkpoint), back, "--name", "small"]
    assert main(command) == 0
    config_back, variables_back = weights.load_model(back)
    assert config_back.name == "small"
    assert weights.fingerprint(config_back, variables_back) == weights.fingerprint(model, variables)
    assert "No such file" in failure(["import-torch", "--encoder", tmp_path / "none.pkl", back], capsys)
    other = {**variables, "codebook": {"quantizer": {"embed": variables["codebook"]["quantizer"]["embed"] + 1}}}
    weights.save_model(tmp_path / "other", model, other)
    assert main(["export-torch", str(tmp_path / "other"), str(tmp_path / "torch2")]) == 0
    second = tmp_path / "torch2" / "checkpoint-1steps.pkl"
    assert "other codebooks" in failure(["import-torch", "--encoder", checkpoint, "--decoder", second, back], capsys)


# -------------------------------------------------------------------------------------------------------- training

PLAN = """
from adjax import zoo
from adjax.config import TrainConfig
config = TrainConfig(model=zoo.symad48, steps=5)
"""


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Path, bool]]:
    """What `adjax.train.loop.train` is called with, instead of calling it; it trains one step if told to stop."""
    from adjax.train import loop

    calls: list[tuple[Any, Path, bool]] = []

    def train(plan: Any, run_dir: Path, resume: bool, stop: Callable[[], bool]) -> tuple[Path, int]:
        calls.append((plan, run_dir, resume))
        return run_dir / "model", 1 if stop() else plan.steps

    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setattr(loop, "export", lambda run_dir, folder, storage, average: folder / f"{storage}-{average}")
    return calls


def test_train(tmp_path: Path, runs: list[tuple[Any, Path, bool]], capsys: pytest.CaptureFixture[str]) -> None:
    """Python and resolved JSON describe the same run; --set changes it; names have defaults."""
    plan = tmp_path / "plan.py"
    plan.write_text(PLAN)
    assert main(["train", str(plan), "--set", "steps=9", "--set", "data.batch_size=2"]) == 0
    got, run_dir, resume = runs.pop()
    assert (got.steps, got.data.batch_size, run_dir, resume) == (9, 2, Path("runs/plan"), False)
    (tmp_path / "plan.json").write_text(to_json(got))
    command = ["train", str(tmp_path / "plan.json"), "--run-dir", "here", "--resume", "--export", "there"]
    assert main(command) == 0
    assert runs.pop() == (got, Path("here"), True)
    assert "there/float16-1: trained for 9 steps\n" in capsys.readouterr().out
    assert main([*command, "--export-type", "int8"]) == 0
    assert "there/int8-1: trained for 9 steps\n" in capsys.readouterr().out
    runs.pop()
    assert main([*command, "--export-type", "sparse", "--average", "5"]) == 0
    assert "there/sparse-5: trained for 9 steps\n" in capsys.readouterr().out
    runs.pop()
    assert "--average is of what --export writes" in failure(["train", str(plan), "--average", "5"], capsys)
    assert not runs
    assert main(["train", str(plan), "--set", "steps=9", "--stop-after", "1e-9"]) == 0
    assert "model: trained for 1 steps of 9; go on with --resume\n" in capsys.readouterr().out
    runs.pop()
    (tmp_path / "config.json").write_text(to_json(got))  # a run's folder
    assert main(["train", str(tmp_path), "--resume"]) == 0
    assert runs.pop() == (got, tmp_path, True)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.py", PLAN.replace("steps", "stpes"), "stpes"),
        ("p.py", "config = 3", "must define `config`"),
        ("p.py", "config = (", "SyntaxError"),
        ("p.py", "1 / 0", "ZeroDivisionError"),
        ("p.py", PLAN.replace("steps=5", "steps=0"), "p.py: steps must be"),
        ("p.json", '{"model": {"name": "x", "hopp": 1}}', "unknown key 'model.hopp'"),
        ("p.json", "{", "JSONDecodeError"),
        ("q.py", "", "no such file"),
    ],
)
def test_bad_configurations(
    tmp_path: Path, runs: list[Any], name: str, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if name != "q.py":
        (tmp_path / name).write_text(text)
    line = failure(["train", tmp_path / name], capsys)
    assert message in line
    assert str(tmp_path / name) in line
    assert not runs


def test_unknown_keys_of_set(tmp_path: Path, runs: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.py").write_text(PLAN)
    line = failure(["train", tmp_path / "p.py", "--set", "data.batchsize=3"], capsys)
    assert "unknown key 'data.batchsize'; did you mean 'batch_size'?" in line
    assert "key.path=value" in failure(["train", tmp_path / "p.py", "--set", "steps"], capsys)
    assert not runs


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_training_restarts_once_with_the_allocators_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """glibc reads them when a program starts; a program that restarts for ever would never train."""
    calls: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda path, argv, environment: calls.append((argv, environment)))
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    for name in training.ALLOCATOR:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ADJAX_NO_REEXEC", "1")
    training.restart_with_allocator()
    assert not calls
    monkeypatch.delenv("ADJAX_NO_REEXEC")
    monkeypatch.setenv("MALLOC_TOP_PAD_", "5")
    training.restart_with_allocator()
    argv, environment = calls.pop()
    assert argv == [sys.executable, *sys.orig_argv[1:]]
    assert environment["MALLOC_TOP_PAD_"] == "5", "what the user chose stays"
    assert environment.items() >= {**training.ALLOCATOR, "MALLOC_TOP_PAD_": "5"}.items()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    training.restart_with_allocator()
    assert not calls


# ----------------------------------------------------------------------------------------------------------- cache


@pytest.fixture
def jax_settings() -> Any:
    names = ("compilation_cache_dir", "persistent_cache_min_compile_time_secs", "persistent_cache_min_entry_size_bytes")
    before = {f"jax_{name}": jax.config.values[f"jax_{name}"] for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_cache_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jax_settings: None) -> None:
    """What lies in the cache is run, so nobody else may write to it; without a safe place there is none."""
    jax.config.update("jax_compilation_cache_dir", None)
    assert cache.enable_compilation_cache() is None
    monkeypatch.delenv("ADJAX_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "adjax"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache.cache_folder() == Path.home() / ".cache" / "adjax"
    monkeypatch.setenv("ADJAX_CACHE_DIR", str(tmp_path / "mine"))
    folder = tmp_path / "mine" / "xla"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert cache.enable_compilation_cache() is None
    folder.rmdir()
    folder.write_text("not a folder")
    assert cache.enable_compilation_cache() is None
    folder.unlink()
    assert cache.enable_compilation_cache() == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert jax.config.values["jax_compilation_cache_dir"] == str(folder)
    monkeypatch.setenv("ADJAX_CACHE_DIR", "")
    assert cache.enable_compilation_cache() == folder, "JAX's own setting stays"


def test_training_stops_when_time_is_up_or_when_told() -> None:
    """A batch system's SIGTERM asks the loop to save and end; after the training it ends the process as ever."""
    before = signal.getsignal(signal.SIGTERM)
    with training.stop_request(None) as stop:
        assert not stop()
        signal.raise_signal(signal.SIGTERM)
        assert stop()
    assert signal.getsignal(signal.SIGTERM) == before
    with training.stop_request(1e-9) as stop:
        time.sleep(1e-6)
        assert stop()
    with training.stop_request(60) as stop:
        assert not stop()
