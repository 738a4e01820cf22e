"""What a training run logged in `log.jsonl`, sorted into the charts of a page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adjax.audio import os_reason
from adjax.errors import AdjaxError
from adjax.report import checks
from adjax.report.curves import Chart, Series

LOG_FILE = "log.jsonl"
POINTS = 300  # of a curve; more records are averaged
_ADVERSARIAL = {"adversarial_loss", "feature_matching_loss", "real_loss", "fake_loss", "discriminator_loss"}


@dataclass(frozen=True)
class Run:
    """A run's name, and for each scalar the steps and values that are known."""

    name: str
    records: int
    scalars: Mapping[str, list[tuple[int, float]]] = field(repr=False)


def read_run(path: str | Path) -> Run:
    """A run's folder, or a file of lines as in its `log.jsonl`.

    A last line that a crash left half-written does not count. Raises AdjaxError, which names the line, for others.
    """
    path = Path(path)
    file = path / LOG_FILE if path.is_dir() else path
    if not file.is_file():
        raise AdjaxError(f"{file}: no such file; give a run's folder, in which `adjax train` has written {LOG_FILE}")
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise AdjaxError(f"{file}: {os_reason(error) if isinstance(error, OSError) else 'is not text'}") from None
    scalars: dict[str, list[tuple[int, float]]] = {}
    records = 0
    for number, line in enumerate(lines[:-1], 1):
        record = _record(file, number, line)
        records += 1
        for name, value in record.items():
            if name not in ("step", "time") and value is not None:
                scalars.setdefault(name, []).append((record["step"], value))
    if not scalars:
        raise AdjaxError(f"{file}: holds no records; train for some steps first")
    return Run(path.resolve().name if path.is_dir() else path.stem, records, scalars)


def charts(run: Run) -> list[Chart]:
    """Losses, adversarial losses, perplexities, gradient norms and the learning rate, where the run has them."""
    series = {name: Series(_label(name), _thinned(points), _dashed(name)) for name, points in run.scalars.items()}
    positive = {name for name, points in run.scalars.items() if all(value > 0 for _, value in points)}

    def some(chosen: Callable[[str], bool]) -> list[Series]:
        return [series[name] for name in sorted(series, key=_order) if chosen(name)]

    def loss(name: str) -> bool:
        return name.endswith("loss") and _short(name) not in _ADVERSARIAL

    adversarial = [name for name in series if _short(name) in _ADVERSARIAL]
    made = [
        Chart("Losses", some(lambda n: loss(n) and n in positive), log=True),
        Chart("Losses that may be negative", some(lambda n: loss(n) and n not in positive)),
        Chart("Adversarial losses", some(lambda n: n in adversarial), log=positive.issuperset(adversarial)),
        Chart("Perplexity of each codebook", some(lambda n: _short(n).startswith("ppl_")), from_zero=True),
        Chart("Gradient norms", some(lambda n: n.endswith("gradient_norm") and n in positive), log=True),
        Chart("Learning rate", some(lambda n: n.endswith("learning_rate")), from_zero=True),
    ]
    return [chart for chart in made if chart.series]


def _record(file: Path, number: int, line: str) -> Mapping[str, Any]:
    try:
        record = checks.parse(line)
    except (ValueError, RecursionError) as error:
        raise AdjaxError(f"{file}: line {number} is not JSON: {error}") from None
    where = Path(f"{file}: line {number}")
    checks.require(where, record, {"step": int})
    checks.require(where, record, checks.Each(checks.Maybe(float)))
    return record


def _thinned(points: list[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most POINTS means of equal numbers of records, in the order of steps."""
    points = sorted(points)
    size = math.ceil(len(points) / POINTS)
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(s for s, _ in part) / len(part), sum(v for _, v in part) / len(part)) for part in parts]


def _short(name: str) -> str:
    return name.rpartition("/")[2]


def _dashed(name: str) -> bool:
    return name.startswith("validation/")


def _label(name: str) -> str:
    short = _short(name)
    words = f"codebook {int(short[4:]) + 1}" if short.startswith("ppl_") and short[4:].isdecimal() else short
    return words.replace("_", " ") + (", validation" if _dashed(name) else "")


def _order(name: str) -> tuple[str, int, bool]:
    """By scalar, codebooks by number, training before validation."""
    stem, _, number = _short(name).rpartition("_")
    known = number.isdecimal()
    return stem if known else _short(name), int(number) if known else 0, _dashed(name)
