"""What a live run measures: percentiles of durations in bounded memory, and its report as text."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

KEPT = 1 << 15  # the latest durations; 13 minutes of 25 ms chunks


class Durations:
    """Percentiles of the latest KEPT durations, in seconds, that one thread adds."""

    def __init__(self) -> None:
        self._values = np.zeros(KEPT)
        self.count = 0

    def add(self, seconds: float) -> None:
        self._values[self.count % KEPT] = seconds
        self.count += 1

    @contextmanager
    def measure(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.add(time.perf_counter() - start)

    def summary_ms(self) -> dict[str, float] | None:
        """p50, p95 and p99 in milliseconds; None before the first duration."""
        if not self.count:
            return None
        values = np.percentile(self._values[: min(self.count, KEPT)], [50, 95, 99])
        return {f"p{p}": round(1000 * float(value), 3) for p, value in zip((50, 95, 99), values, strict=True)}


def milliseconds(seconds: float | None) -> float | None:
    """Rounded milliseconds; None stays None."""
    return None if seconds is None else round(1000 * seconds, 3)


def text(report: dict[str, Any], indent: str = "") -> Iterator[str]:
    """Lines of a nested report; what is None was not measured and is left out."""
    for name, value in report.items():
        label = f"{indent}{name.replace('_', ' ')}"
        if value is None:
            continue
        if not isinstance(value, dict):
            yield f"{label}: {value}"
        elif any(isinstance(part, dict) for part in value.values()):
            yield f"{label}:"
            yield from text(value, indent + "  ")
        else:
            shown = ", ".join(f"{key.replace('_', ' ')} {part}" for key, part in value.items() if part is not None)
            if shown:
                yield f"{label}: {shown}"
