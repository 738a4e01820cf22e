"""Latency against the buffer as a figure, with matplotlib (the extra `plots`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adjax import audio
from adjax.benchmark.streams import Latency
from adjax.errors import AdjaxError

FORMATS = (".pdf", ".png", ".svg")


def write_latency_plot(rows: Sequence[Latency], machine: str, path: Path) -> None:
    """A line for each part: the median and, above it, a bar to the 99th percentile; under the dashed line is real time.

    Raises AdjaxError for another extension than FORMATS, and without matplotlib.
    """
    if path.suffix.lower() not in FORMATS:
        raise AdjaxError(f"--plot {path}: the extension must be one of {', '.join(FORMATS)}")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise AdjaxError("--plot needs matplotlib: pip install 'adjax[plots]'") from None
    figure = Figure((6.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for part in dict.fromkeys(row.part for row in rows):
        of_part = sorted((row for row in rows if row.part == part), key=lambda row: row.buffer_ms)
        above = [row.p99_ms - row.p50_ms for row in of_part]
        panel.errorbar(
            [row.buffer_ms for row in of_part],
            [row.p50_ms for row in of_part],
            yerr=[[0.0] * len(above), above],
            marker="o",
            capsize=3,
            label=part,
        )
    buffers = sorted({row.buffer_ms for row in rows})
    panel.plot(buffers, buffers, "--", color="grey", label="real time")
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xticks(buffers, [f"{ms:g}" for ms in buffers])
    panel.set_xlabel("buffer, ms")
    panel.set_ylabel("computation, ms: median, bar to the 99th percentile")
    panel.set_title(machine, fontsize=8)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    with audio.replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=120)
