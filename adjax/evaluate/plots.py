"""Quality against bitrate as a figure, with matplotlib (the extra `plots`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adjax import audio

FILES = ("quality.png", "quality.svg")
_COLUMNS, _PANEL_INCHES = 3, (4.4, 3.3)


def write_plots(results: Mapping[str, Any], folder: Path, alignment: str = "compensated") -> list[Path]:
    """A panel for each metric: a line through a model's numbers of codebooks, one through Opus's bitrates.

    Bars are the confidence intervals; systems of unknown bitrate are horizontal lines. Writes FILES to `folder`;
    nothing, and returns [], where no metric has a value.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    systems = [system for system in results["systems"] if system["files"]]
    metrics = [m for m in results["metrics"] if any(s[alignment][m["name"]]["files"] for s in systems)]
    if not metrics:
        return []
    rows = -(-len(metrics) // _COLUMNS)
    figure = Figure((_PANEL_INCHES[0] * _COLUMNS, _PANEL_INCHES[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for metric, panel in zip(metrics, panels, strict=False):
        for label, members in series(systems).items():
            _draw(panel, label, [(s["payload_kbps"], s[alignment][metric["name"]]) for s in members])
        better = "higher" if metric["higher_is_better"] else "lower"
        panel.set_title(f"{metric['label']} ({better} is better)", fontsize=10)
        panel.set_ylabel(metric["unit"] or metric["label"])
        panel.set_xlabel("payload, kbps per channel")
        panel.grid(alpha=0.3)
    for panel in panels[len(metrics) :]:
        panel.set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    made = [folder / name for name in FILES]
    for path in made:
        with audio.replacing(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], dpi=120)
    return made


def series(systems: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Systems that a line connects, in the order of their bitrate: a model's, Opus's, and others by themselves."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for system in systems:
        joined = {"model": system["model"], "opus": "Opus"}
        lines.setdefault(joined.get(system["kind"], system["name"]), []).append(system)
    return {label: sorted(line, key=lambda s: s["payload_kbps"] or 0) for label, line in lines.items()}


def _draw(panel: Any, label: str, points: Sequence[tuple[float | None, Mapping[str, Any]]]) -> None:
    points = [(kbps, found) for kbps, found in points if found["mean"] is not None]
    known = [(kbps, found) for kbps, found in points if kbps is not None]
    if not known:
        line = panel.plot([], [], linestyle="--", label=label)[0]
        for _, found in points:
            panel.axhline(found["mean"], color=line.get_color(), linestyle="--")
        return
    means = [found["mean"] for _, found in known]
    bars = None
    if all(found["low"] is not None for _, found in known):
        bars = [[f["mean"] - f["low"] for _, f in known], [f["high"] - f["mean"] for _, f in known]]
    panel.errorbar([kbps for kbps, _ in known], means, yerr=bars, marker="o", capsize=2, label=label)
