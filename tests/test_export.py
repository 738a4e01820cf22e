"""Exported steps run where adjax is not imported, and give what adjax gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adjax.cli import main
from adjax.config import ModelConfig
from adjax.errors import AdjaxError
from adjax.export import export_stablehlo
from adjax.streaming import Codec
from adjax.weights import save_model
from tests.conftest import TINY_CONV, TINY_SPECTRAL, fill

FRAMES, CHUNKS, STREAMS = 2, 3, 2

# All that a user of an export needs: jax, numpy and safetensors.
PROGRAM = """
import json, sys
from pathlib import Path
import jax.export
import numpy as np
from safetensors.numpy import load_file

folder = Path(sys.argv[1])
manifest = json.loads((folder / "manifest.json").read_text())
chunks = np.load(folder / "chunks.npz")["chunks"]
for name in ("encode", "decode"):
    step = jax.export.deserialize(bytearray((folder / f"{name}.stablehlo").read_bytes()))
    weights = load_file(folder / f"{name}.safetensors")
    state = {
        key: np.zeros([chunks.shape[1] if n == "streams" else int(n) for n in leaf["shape"]], leaf["dtype"])
        for key, leaf in manifest[name]["state"].items()
    }
    results = []
    for chunk in chunks:
        state, result = step.call(weights, state, chunk)
        results.append(np.asarray(result))
    chunks = np.stack(results)
    np.savez(folder / f"{name}.npz", result=chunks)
assert not any(module.split(".")[0] in ("adjax", "flax") for module in sys.modules)
"""


@pytest.mark.parametrize(
    "config", [TINY_CONV, pytest.param(TINY_SPECTRAL, marks=pytest.mark.slow)], ids=["conv", "spectral"]
)
def test_a_fresh_process_without_adjax(config: ModelConfig, tmp_path: Path) -> None:
    """The files hold all of the model: state goes from chunk to chunk, and any number of streams may share a batch."""
    codec = Codec(config, fill(config), kernels=False)
    model, folder = tmp_path / "model", tmp_path / "exported"
    save_model(model, config, fill(config))
    assert main(["export", str(model), str(folder), "--format", "stablehlo", "--frames", str(FRAMES)]) == 0
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["platforms"] == ["cpu", "cuda", "tpu"]
    size = FRAMES * codec.hop_length
    audio = np.random.default_rng(0).standard_normal((STREAMS, CHUNKS * size, 1)).astype(np.float32)
    np.savez(folder / "chunks.npz", chunks=np.moveaxis(audio.reshape(STREAMS, CHUNKS, size, 1), 1, 0))
    environment = {**os.environ, "PYTHONPATH": "", "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM, str(folder)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    codes = np.asarray(codec.encode(audio))
    for name, wanted in (("encode", codes), ("decode", np.asarray(codec.decode(codes)))):
        with np.load(folder / f"{name}.npz") as file:
            result = np.moveaxis(file["result"], 0, 1).reshape(wanted.shape)
        np.testing.assert_allclose(result, wanted, rtol=0, atol=1e-5)


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    """A machine's own kernels cannot travel; nothing is written."""
    codec = Codec(TINY_CONV, fill(TINY_CONV), kernels=False)
    codec.uses_kernels = True
    with pytest.raises(AdjaxError, match="kernels=False"):
        export_stablehlo(codec, tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()
