"""What `adjax benchmark … --json` printed, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adjax.errors import AdjaxError
from adjax.report import checks

# For each kind, what tells it from others, its title, and its columns: key of a row, kind, heading and format.
_LATENCY = (
    ("part", str, "part", ""),
    ("buffer_ms", float, "buffer, ms", "g"),
    ("p50_ms", float, "median, ms", ".2f"),
    ("p95_ms", float, "p95, ms", ".2f"),
    ("p99_ms", float, "p99, ms", ".2f"),
    ("floor_ms", float, "floor, ms", ".2f"),
)
_THROUGHPUT = (
    ("part", str, "part", ""),
    ("streams", int, "streams", ""),
    ("together", float, "together, s/s", ".2f"),
    ("alone", float, "one by one, s/s", ".2f"),
)
_TRAINING = (
    ("model", str, "model", ""),
    ("phase", str, "phase", ""),
    ("batch", int, "batch", ""),
    ("crop_samples", int, "crop, samples", ""),
    ("precision", str, "precision", ""),
    ("p50_s", float, "s a step", ".3g"),
    ("steps_per_second", float, "steps/s", ".3g"),
    ("audio_per_second", float, "audio s/s", ".3g"),
    ("floor_s", float, "floor, s", ".3g"),
    ("peak_gb", float, "peak, GB", ".2f"),
)
_KINDS = {
    "p99_ms": ("Latency of a buffer", _LATENCY),
    "together": ("Streams together", _THROUGHPUT),
    "steps_per_second": ("Training steps", _TRAINING),
}


@dataclass(frozen=True)
class Benchmark:
    """A table with headings first, and the machine that it was measured on."""

    title: str
    machine: str
    table: list[list[str]]


def read_benchmark(path: str | Path) -> Benchmark:
    """Reads and checks the JSON of a benchmark; raises AdjaxError, which names what is wrong."""
    path = Path(path)
    found = checks.read_json(path)
    checks.require(path, found, {"machine": {}, "rows": [{}]})
    if not found["rows"]:
        raise AdjaxError(f"{path}: rows is empty, but there must be one at least")
    kind = next((key for key in _KINDS if key in found["rows"][0]), None)
    if kind is None:
        raise AdjaxError(
            f"{path}: rows[0] is neither of latency nor of throughput or training; give what "
            "`adjax benchmark … --json` prints"
        )
    title, columns = _KINDS[kind]
    checks.require(path, found, {"rows": [{key: value for key, value, _, _ in columns}]})
    rows = [[format(row[key], how) for key, _, _, how in columns] for row in found["rows"]]
    return Benchmark(title, _machine(found["machine"]), [[head for _, _, head, _ in columns], *rows])


def _machine(facts: Mapping[str, Any]) -> str:
    """The device first, then its platform where the device's name does not say it, and the other facts."""
    device, platform = (str(facts.get(name, "")) for name in ("device", "platform"))
    named = device if device.lower() != platform.lower() else ""
    parts = [named or "unknown device" if not platform else named, platform.upper()]
    parts += [
        f"{name.replace('_', ' ')} {value}" for name, value in facts.items() if name not in ("device", "platform")
    ]
    return ", ".join(part for part in parts if part)
