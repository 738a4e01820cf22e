"""The results of an evaluation as files and as tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adjax import audio
from adjax.evaluate.summary import ALIGNMENTS

RESULTS_JSON, RESULTS_CSV = "results.json", "results.csv"
_FACTS = (
    "file",
    "system",
    "duration_s",
    "sample_rate_hz",
    "channels",
    "payload_bits",
    "file_bytes",
    "payload_kbps",
    "file_kbps",
    "encode_rtf",
    "decode_rtf",
    "clipped",
    "lag_ms",
)

Table = list[list[str]]


def write_results(results: Mapping[str, Any], folder: Path) -> None:
    """`results.json` and `results.csv`, each put into its place once whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with audio.replacing(folder / RESULTS_JSON) as temporary:
        temporary.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with audio.replacing(folder / RESULTS_CSV) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, csv_columns(results))
        writer.writeheader()
        writer.writerows(csv_rows(results))


def csv_columns(results: Mapping[str, Any]) -> list[str]:
    names = [metric["name"] for metric in results["metrics"]]
    return [*_FACTS, *(f"{alignment}_{name}" for alignment in ALIGNMENTS for name in names), "error"]


def csv_rows(results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each file and system, then one for each failure; what has no value is empty."""
    for row in results["rows"]:
        marks = {f"{a}_{name}": value for a in ALIGNMENTS for name, value in row[a].items()}
        yield {name: row[name] for name in _FACTS} | marks
    for lost in (*results["failures"], *results["unavailable"]):
        yield {"file": lost["file"], "system": lost["system"] or "", "error": lost["reason"]}


# ---------------------------------------------------------------------------------------------------------- tables


def report(results: Mapping[str, Any]) -> Iterator[str]:
    """The tables in Markdown with what there is to say about them, a paragraph or table at a time."""
    settings = results["settings"]
    interval = f"{100 * settings['confidence']:g} % bootstrap interval"
    lagging = [system for system in results["systems"] if system["files"] and round(system["lag_ms"], 3)]
    yield f"Mean over files ({interval}); bitrates per channel, of the payload"
    yield markdown(quality_table(results, "raw"))
    if lagging:
        lags = ", ".join(f"{system['name']} {system['lag_ms']:.2f} ms" for system in lagging)
        yield f"The same with each system's constant lag undone: {lags}; the others have none"
        yield markdown(quality_table(results, "compensated"))
    yield markdown(rate_table(results))
    if any(system["codebook_use"] for system in results["systems"]):
        yield "Codes used, and entropy in bits, of each codebook"
        yield markdown(codebook_table(results))
    yield from notes(results)


def quality_table(results: Mapping[str, Any], alignment: str) -> Table:
    """A row for each system; metrics that none has a value of are left out."""
    metrics = [
        metric
        for metric in results["metrics"]
        if any(system[alignment][metric["name"]]["files"] for system in results["systems"])
    ]
    labels = [metric["label"] + (f", {metric['unit']}" if metric["unit"] else "") for metric in metrics]
    table = [["system", "kbps", "files", *labels]]
    for system in results["systems"]:
        cells = [_interval(system[alignment][m["name"]], m["decimals"], system["files"]) for m in metrics]
        table.append([system["name"], _number(system["payload_kbps"], 2), str(system["files"]), *cells])
    return table


def rate_table(results: Mapping[str, Any]) -> Table:
    """What was spent: bits and time."""
    table = [["system", "payload, kbps", "file, kbps", "entropy, kbps", "lag, ms", "encode RTF", "decode RTF"]]
    for system in results["systems"]:
        use = system["codebook_use"]
        entropy = None if use is None else use["entropy_kbps"]
        kbps = [_number(value, 2) for value in (system["payload_kbps"], system["file_kbps"], entropy)]
        speed = [_number(system[name], 4) for name in ("encode_rtf", "decode_rtf")]
        table.append([system["name"], *kbps, _number(system["lag_ms"] if system["files"] else None, 2), *speed])
    return table


def codebook_table(results: Mapping[str, Any]) -> Table:
    """A row for each model, of its system with the most codebooks."""
    most: dict[str, Mapping[str, Any]] = {}
    for system in results["systems"]:
        if system["codebook_use"]:
            model = system["model"]
            if model not in most or system["codebooks"] > most[model]["codebooks"]:
                most[model] = system
    stages = max(len(system["codebook_use"]["stages"]) for system in most.values())
    table = [["model", "frames", "size", *(str(i + 1) for i in range(stages))]]
    for model, system in most.items():
        use = system["codebook_use"]
        cells = [f"{stage['used']}, {stage['entropy_bits']:.2f}" for stage in use["stages"]]
        size = str(use["stages"][0]["size"])
        table.append([model, str(use["frames"]), size, *cells, *[""] * (stages - len(cells))])
    return table


def file_table(results: Mapping[str, Any], alignment: str = "raw") -> Table:
    """A row for each file and system, without intervals."""
    metrics = [m for m in results["metrics"] if any(m["name"] in row[alignment] for row in results["rows"])]
    labels = [metric["label"] + (f", {metric['unit']}" if metric["unit"] else "") for metric in metrics]
    table = [["file", "system", "kbps", *labels]]
    for row in results["rows"]:
        cells = [_number(row[alignment].get(m["name"]), m["decimals"]) for m in metrics]
        table.append([row["file"], row["system"], _number(row["payload_kbps"], 2), *cells])
    return table


def notes(results: Mapping[str, Any]) -> Iterator[str]:
    """What the tables leave out, and why."""
    labels = {metric["name"]: metric["label"] for metric in results["metrics"]}
    if results["missing"]:
        parts = [
            f"{', '.join(dict.fromkeys(labels[name] for name in names))} ({package})"
            for package, names in results["missing"].items()
        ]
        install = "pip install 'adjax[evaluation,visqol]'"
        yield f"Left out, because the package is not installed: {'; '.join(parts)}. {install}"
    for system in results["systems"]:
        lost = [entry["reason"] for entry in results["unavailable"] if entry["system"] == system["name"]]
        if lost:
            what = "no file" if not system["files"] else f"only {system['files']} files"
            yield f"{system['name']}: {what} could be coded so; for example: {lost[0]}"


def markdown(table: Sequence[Sequence[str]]) -> str:
    """Columns of even width, the first to the left and the others to the right."""
    widths = [max(3, *(len(row[i]) for row in table)) for i in range(len(table[0]))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * (w - 1) + ":") if i else "-" * w for i, w in enumerate(widths)]
    return "\n".join([line(table[0]), line(rule), *(line(row) for row in table[1:])])


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _interval(found: Mapping[str, Any], decimals: int, files: int) -> str:
    """Mean and interval, and over how many files where not over all."""
    text = _number(found["mean"], decimals)
    if found["low"] is not None:
        text += f" ({found['low']:.{decimals}f} to {found['high']:.{decimals}f})"
    return text + (f" [{found['files']}]" if 0 < found["files"] < files else "")
