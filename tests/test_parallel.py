"""An adversarial step on many devices is the step on one: a wrong gradient scale hides under Adam, so this uses SGD.

It has a metric step in it. Under spectral norm, one device's power method must be every device's.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests import step_on_devices

ROOT = Path(__file__).parent.parent
FOUR = "--xla_force_host_platform_device_count=4 --xla_cpu_use_fusion_emitters=false"


@pytest.fixture(scope="module")
def one_device() -> dict[str, np.ndarray]:
    return step_on_devices.run("jit", jax.devices()[:1])


def assert_same(actual: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """Equal up to the order of float32 sums, and really moved by the step."""
    assert actual.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(actual[name], array, rtol=2e-4, atol=2e-6, err_msg=name)


def test_the_step_moves_every_parameter(one_device: dict[str, np.ndarray]) -> None:
    """Comparing states says nothing about gradients that are zero."""
    from adjax.weights import flatten

    start = flatten(step_on_devices.start())
    moved = {name for name in start if not np.array_equal(one_device[name], start[name])}
    assert {name for name in start if name not in moved} == {n for n in start if n.endswith("window")}


@pytest.mark.parametrize("kind", ["pmap", "shard_map"])
def test_eight_devices(kind: str, one_device: dict[str, np.ndarray]) -> None:
    """Gradients of both networks, EMA statistics and losses are over the global batch."""
    assert jax.device_count() == 8
    assert_same(step_on_devices.run(kind), one_device)  # type: ignore[arg-type]


def test_two_processes_of_four_devices(one_device: dict[str, np.ndarray], tmp_path: Path) -> None:
    """The same across hosts, each of which holds half of the batch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "XLA_FLAGS": FOUR, "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-c", _PROGRAM, str(tmp_path), coordinator, "2"]
    processes = [
        subprocess.Popen([*program, str(i)], env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    messages = [p.communicate(timeout=240)[1] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], "\n".join(messages)
    for kind in ("pmap", "shard_map"):
        with np.load(tmp_path / f"{kind}.npz") as file:
            assert_same(dict(file), one_device)


# tests.conftest asks for eight devices when imported; here four are wanted, and the cluster before any use of jax.
_PROGRAM = """
import os, runpy, sys
flags = os.environ["XLA_FLAGS"]
import tests.conftest
os.environ["XLA_FLAGS"] = flags
sys.argv[0] = "step_on_devices.py"
runpy.run_module("tests.step_on_devices", run_name="__main__")
"""
