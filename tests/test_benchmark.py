"""What the benchmark counts and prints; how fast anything is, is no test."""

from __future__ import annotations

import json

import pytest

from adjax import benchmark, zoo
from adjax.cli import main
from adjax.streaming import Codec
from tests.conftest import TINY_CONV, fill


@pytest.mark.parametrize(
    ("model", "part", "expected"),
    [("symad48", "encode", 6.625), ("symad48", "decode", 6.563), ("symad48-v2", "decode", 14.241)],
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
