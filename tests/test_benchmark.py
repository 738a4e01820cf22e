"""What the benchmark counts and prints; how fast anything is, is no test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adjax import benchmark, zoo
from adjax.benchmark.plots import write_latency_plot
from adjax.cli import main
from adjax.errors import AdjaxError
from adjax.streaming import Codec
from tests.conftest import TINY_CONV, fill


@pytest.mark.parametrize(
    ("model", "part", "expected"),
    [
        ("symad48", "encode", 6.625),
        ("symad48", "decode", 6.563),
        pytest.param("symad48-v2", "decode", 14.241, marks=pytest.mark.slow),
    ],
)
def test_operations(model: str, part: str, expected: float) -> None:
    """Billions of products a second of audio, worked out by hand from the published layers, the search included."""
    codec = Codec(zoo.MODELS[model], benchmark.random_variables(zoo.MODELS[model]), kernels=False)
    assert benchmark.operations(codec, part, 2) / 2 / 0.0125 / 1e9 == pytest.approx(expected, rel=1e-3)


def test_rows() -> None:
    """A buffer that is not whole hops has no row; percentiles are in order."""
    codec = Codec(TINY_CONV, fill(TINY_CONV))
    row = benchmark.latency(codec, "encode", 5.0, 5, 1e9)  # 8 kHz, hop 20
    assert row is not None
    assert 0 < row.p50_ms <= row.p95_ms <= row.p99_ms
    assert benchmark.latency(codec, "encode", 4.0, 5, 1e9) is None
    many = benchmark.throughput(codec, "decode", 3, 2, 3)
    assert many.streams == 3
    assert min(many.together, many.alone) > 0


def test_command(tiny_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Both kinds, as JSON and as a table."""
    options = ["--model", tiny_model, "--buffers", "10", "--repeats", "2"]
    assert main(["benchmark", "latency", *options, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["part"] for row in printed["rows"]] == ["tiny-spectral encode", "tiny-spectral decode"]
    assert printed["machine"]["matrix_gflops"] > 0
    assert main(["benchmark", "throughput", *options, "--streams", "2"]) == 0
    assert "| tiny-spectral decode | 2 |" in capsys.readouterr().out


def test_plot(tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of the kind that its extension says, with a line a part; wrong extensions and kinds are named."""
    pytest.importorskip("matplotlib")
    rows = [benchmark.Latency(p, b, b / 9, b / 8, b / 7, b / 20) for p in ("one", "other") for b in (12.5, 25.0)]
    write_latency_plot(rows, "a machine", tmp_path / "latency.svg")
    assert "<svg" in (tmp_path / "latency.svg").read_text()
    with pytest.raises(AdjaxError, match=r"\.png"):
        write_latency_plot(rows, "a machine", tmp_path / "latency.doc")
    assert main(["benchmark", "duplex", "--model", tiny_model, "--plot", "x.png"]) == 1
    assert "--plot" in capsys.readouterr().err


def test_duplex_finds_the_last_number_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """With times that grow by a fixed amount a stream, the answer is known: within a sixteenth under it, or none."""

    def times(per_stream_ms: float) -> Any:
        def stepper(codec: Codec, part: str, streams: int, frames: int) -> Any:
            return lambda: streams * per_stream_ms / 2000

        monkeypatch.setattr("adjax.benchmark.streams._stepper", stepper)
        monkeypatch.setattr("adjax.benchmark.streams.times", lambda call, repeats: np.full(repeats, sum(call())))
        return benchmark.duplex(Codec(TINY_CONV, fill(TINY_CONV)), 5.0, 4)

    for limit, expected in ((1.4, 1), (2.5, 2), (37.5, 37), (1000.5, 1000)):
        row = times(5 / limit)
        assert expected * 15 / 16 <= row.streams <= expected
        assert row.p99_ms < row.buffer_ms == 5.0
    assert times(5.1).streams == 0


@pytest.mark.slow
def test_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seconds add up: steps and audio a second are those of the median step, which lies between its percentiles."""
    config = tmp_path / "tiny.py"
    config.write_text(
        "from adjax.config import Data, TrainConfig\nfrom tests.conftest import TINY_CONV\n"
        "config = TrainConfig(TINY_CONV, Data(batch_size=8, crop_samples=400), parallel='jit')\n"
    )
    options = ["benchmark", "training", "--config", str(config), "--batch", "2", "4", "--crop", "1200", "--steps", "3"]
    assert main([*options, "--phase", "adversarial"]) == 1
    assert "no adversarial phase" in capsys.readouterr().err
    assert main([*options, "--precision", "bfloat16", "--json"]) == 0
    row, other = json.loads(capsys.readouterr().out)["rows"]
    assert (row["model"], row["phase"], row["batch"], row["crop_samples"]) == ("tiny-conv", "metric", 2, 1200)
    assert [(r["batch"], r["precision"]) for r in (row, other)] == [(2, "bfloat16"), (4, "bfloat16")]
    assert 0 < row["p10_s"] <= row["p50_s"] <= row["p90_s"]
    assert row["steps_per_second"] * row["p50_s"] == pytest.approx(1)
    assert row["audio_per_second"] * row["p50_s"] == pytest.approx(2 * 1200 / 8000)
    assert min(row["floor_s"], row["compile_s"], row["temporary_gb"], row["state_gb"], row["peak_gb"]) > 0
