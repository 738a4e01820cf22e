"""Tables of the page in HTML; whatever text comes in is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from adjax.evaluate import output


def table(rows: Sequence[Sequence[str]], caption: str, marks: Mapping[str, str] | None = None) -> str:
    """A table of plain text: headings first, each row's first cell its heading too; it scrolls where it is wide.

    `marks` holds what is put behind the name of a heading; a unit follows after a comma.
    """
    marks = marks or {}
    heads = "".join(f'<th scope="col">{_heading(head, marks.get(head, ""))}</th>' for head in rows[0])
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{_cell(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows[1:]
    )
    label = escape(caption)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table>'
        f"<caption><span>{label}</span></caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def quality(results: Mapping[str, Any]) -> str:
    """Means with intervals, raw and with lags undone, bitrates and speed, and what is left out."""
    arrows = {heading(metric): "\u00a0↑" if metric["higher_is_better"] else "\u00a0↓" for metric in results["metrics"]}
    lagging = [system for system in results["systems"] if system["files"] and round(system["lag_ms"], 3)]
    lags = ", ".join(f"{system['name']} {system['lag_ms']:.2f} ms" for system in lagging) or "no system has one"
    parts = [
        table(output.quality_table(results, "raw"), "Quality, as decoded", arrows),
        table(output.quality_table(results, "compensated"), "Quality, with constant lags undone", arrows),
        f'<p class="note">Constant lags: {escape(lags)}.</p>',
        table(output.rate_table(results), "Bitrate per channel, lag and real-time factors"),
        *(f'<p class="note">{escape(note)}</p>' for note in output.notes(results)),
    ]
    for lost in results["failures"]:
        where = ", ".join(name for name in (lost["file"], lost["system"]) if name)
        parts.append(f'<p class="note">Failed: {escape(where)}: {escape(lost["reason"])}</p>')
    return "".join(parts)


def codebooks(results: Mapping[str, Any]) -> str:
    """Codes used and entropy of each stage; nothing where no system has codebooks."""
    if not any(system["codebook_use"] for system in results["systems"]):
        return ""
    return table(output.codebook_table(results), "Codes used, and entropy in bits, of each codebook")


def marks(metrics: Sequence[Mapping[str, Any]], values: Mapping[str, float]) -> str:
    """The metrics of one file, as a list of names and values."""
    items = "".join(
        f"<div><dt>{escape(metric['label'])}</dt>"
        f"<dd>{values[metric['name']]:.{metric['decimals']}f}{escape(_unit(metric['unit']))}</dd></div>"
        for metric in metrics
        if metric["name"] in values
    )
    return f"<dl>{items}</dl>" if items else ""


def heading(metric: Mapping[str, Any]) -> str:
    """A metric's heading in `output.quality_table`."""
    return metric["label"] + (f", {metric['unit']}" if metric["unit"] else "")


def _unit(unit: str) -> str:
    return f" {unit}" if unit else ""


def _heading(text: str, mark: str) -> str:
    """The unit goes to a line of its own."""
    name, comma, unit = text.partition(", ")
    return escape(name + mark) + (f" <small>{escape(unit)}</small>" if comma else "")


def _cell(text: str) -> str:
    """Intervals go to a line of their own."""
    mean, bracket, interval = text.partition(" (")
    return f"{escape(mean)} <small>({escape(interval)}</small>" if bracket else escape(text)
