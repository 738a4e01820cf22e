"""The page: sections of HTML put into a template, with style, script, audio and pictures in the one file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np

from adjax import picture
from adjax.report import curves, media, tables
from adjax.report.benchmarks import Benchmark
from adjax.report.evaluation import NATURAL, Evaluation, choose
from adjax.report.media import AudioFormat, Sound
from adjax.report.runs import Run, charts

Progress = Callable[[float, float | None], None]


@dataclass(frozen=True)
class Settings:
    """What of an evaluation is played, and how; an empty list stands for all."""

    title: str = "Speech through neural codecs"
    limit: int | None = 10  # utterances
    utterances: Sequence[str] = ()
    systems: Sequence[str] = ()
    audio_format: AudioFormat = "opus"
    kbps: float = 128.0  # of Opus, for each channel
    credits: str = ""
    version: str = ""  # of the adjax that makes the page


@dataclass(frozen=True)
class _Utterance:
    """A natural file's name, and what the pictures of all systems are scaled by."""

    name: str
    top_db: float
    peak: float


def build_page(
    evaluation: Evaluation,
    settings: Settings,
    runs: Sequence[Run] = (),
    benchmarks: Sequence[Benchmark] = (),
    progress: Progress | None = None,
) -> str:
    """The whole page, which needs nothing beside it; without saved audio it has tables only, and says so.

    `progress` is told seconds of audio. Raises AdjaxError for names that the evaluation lacks, and for audio that
    cannot be read.
    """
    systems = choose(settings.systems, evaluation.system_names, "--systems")
    known = evaluation.audible or list(dict.fromkeys(row["file"] for row in evaluation.results["rows"]))
    chosen = choose(settings.utterances, known, "--utterances", settings.limit)
    style, script = _asset("style.css"), _asset("page.js")
    sections = {
        "listen": ("Listen", _listen(evaluation, chosen, systems, settings, progress)),
        "quality": ("Quality", tables.quality(evaluation.results)),
        "codebooks": ("Codebook use", tables.codebooks(evaluation.results)),
        "speed": ("Speed", "".join(_benchmark(benchmark) for benchmark in benchmarks)),
        "training": ("Training", "".join(_run(run) for run in runs)),
        "making": ("How this page was made", _making(evaluation, chosen, settings)),
        "credits": ("Credits and licences", _paragraphs(settings.credits)),
    }
    shown = {name: part for name, part in sections.items() if part[1]}
    body = "".join(f'<section id="{name}"><h2>{title}</h2>{html}</section>' for name, (title, html) in shown.items())
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, (title, _) in shown.items())
    return Template(_asset("template.html")).substitute(
        title=escape(settings.title),
        style=style,
        style_hash=_digest(style),
        script=script,
        script_hash=_digest(script),
        links=links,
        body=body,
    )


# --------------------------------------------------------------------------------------------------------- sections


def _listen(
    evaluation: Evaluation,
    chosen: Sequence[str],
    systems: Sequence[str],
    settings: Settings,
    progress: Progress | None,
) -> str:
    if not evaluation.audible:
        return (
            '<p class="note">No audio here: this was evaluated without <code>--save-audio</code>. The tables below '
            "hold all figures.</p>"
        )
    total_s = sum(next(iter(evaluation.rows(name).values()))["duration_s"] for name in chosen)
    done_s = 0.0
    parts = [_asset("listen.html")]
    if len(chosen) < len(evaluation.audible):
        parts.append(f'<p class="note">{len(chosen)} of {len(evaluation.audible)} utterances are played here.</p>')
    for number, name in enumerate(chosen, 1):
        rows = evaluation.rows(name)
        parts.append(_utterance(evaluation, number, name, rows, systems, settings))
        done_s += next(iter(rows.values()))["duration_s"]
        if progress is not None:
            progress(done_s, total_s)
    return "".join(parts)


def _utterance(
    evaluation: Evaluation,
    number: int,
    name: str,
    rows: Mapping[str, Mapping[str, Any]],
    systems: Sequence[str],
    settings: Settings,
) -> str:
    """An utterance: buttons that switch between its players, and a card with player and pictures for each system."""
    results = evaluation.results
    row = next(row for row in rows.values() if row["natural_audio"])
    natural = media.read_sound(evaluation.audio(row["natural_audio"]))
    utterance = _Utterance(name, media.loudest_db(natural), float(np.abs(natural.mono).max()))
    cards = [_card(utterance, settings, None, natural, "as recorded")]
    labels, silent = [NATURAL], []
    for system in systems:
        found = rows.get(system)
        if found is None or not found["decoded_audio"]:
            silent.append(f"{system}: {_reason(results, name, system)}")
            continue
        sound = media.read_sound(evaluation.audio(found["decoded_audio"]))
        kbps = "" if found["payload_kbps"] is None else f"{found['payload_kbps']:.1f} kbps"
        marks = tables.marks(results["metrics"], found["compensated"])
        cards.append(_card(utterance, settings, system, sound, kbps, marks))
        labels.append(system)
    buttons = "".join(
        f'<button type="button" class="pick" aria-pressed="{"false" if i else "true"}">'
        f"{f'<kbd>{i + 1}</kbd> ' if i < 9 else ''}{escape(label)}</button>"
        for i, label in enumerate(labels)
    )
    lost = "".join(f'<p class="note">Not here: {escape(reason)}</p>' for reason in silent)
    khz = natural.sample_rate_hz / 1000
    heading = escape(name)
    channels = f", {row['channels']} channels" if row["channels"] > 1 else ""
    return (
        f'<article class="utterance" aria-labelledby="utterance{number}"><h3 id="utterance{number}">{heading}</h3>'
        f'<p class="note">{natural.duration_s:.2f} s, {khz:g} kHz{channels}. Spectrograms: 0 to {khz / 2:g} kHz, '
        f"{picture.RANGE_DB:g} dB down from the loudest point of the natural file.</p>"
        f'<div class="bar" role="group" aria-label="Play and switch: {heading}">'
        '<button type="button" class="play">Play</button>'
        f'{buttons}<label><input type="checkbox" class="loop"> loop</label></div>'
        f'<div class="cards">{"".join(cards)}</div>{lost}</article>'
    )


def _card(
    utterance: _Utterance, settings: Settings, system: str | None, sound: Sound, detail: str, marks: str = ""
) -> str:
    """A player with its pictures; `system` is None for the natural file."""
    copy = media.listening_copy(sound, settings.audio_format, settings.kbps)
    source = media.data_uri(media.FORMATS[settings.audio_format][2].partition(";")[0], copy)
    image = media.data_uri("image/webp", media.spectrogram(sound, utterance.top_db))
    width, height = media.PICTURE_SIZE
    who = escape(utterance.name + (f", {NATURAL}" if system is None else f" by {system}"))
    return (
        f'<div class="card{" on" if system is None else ""}"><h4>{escape(system or NATURAL)} '
        f"<small>{escape(detail)}</small></h4>"
        f'<audio controls preload="auto" src="{source}" aria-label="{who}"></audio>'
        f'<div class="pictures"><svg class="wave" viewBox="0 0 {media.WAVE_COLUMNS} {media.WAVE_HEIGHT}" '
        f'preserveAspectRatio="none" role="img" aria-label="Waveform of {who}">'
        f'<path d="{media.waveform_path(sound, utterance.peak)}"/></svg>'
        f'<img src="{image}" width="{width}" height="{height}" alt="Spectrogram of {who}">'
        f'<span class="playhead" aria-hidden="true"></span></div>{marks}</div>'
    )


def _reason(results: Mapping[str, Any], name: str, system: str) -> str:
    for lost in (*results["unavailable"], *results["failures"]):
        if lost["file"] == name and lost["system"] == system:
            return lost["reason"]
    return "its audio was not saved"


def _benchmark(benchmark: Benchmark) -> str:
    return tables.table(benchmark.table, f"{benchmark.title} on {benchmark.machine}")


def _run(run: Run) -> str:
    figures = "".join(curves.figure(chart) for chart in charts(run))
    return (
        f'<h3>{escape(run.name)}</h3><p class="note">{run.records} records. Dashed: validation.</p>'
        f'<div class="charts">{figures}</div>'
    )


def _making(evaluation: Evaluation, chosen: Sequence[str], settings: Settings) -> str:
    results = evaluation.results
    interval, draws = 100 * results["settings"]["confidence"], results["settings"]["bootstrap_resamples"]
    copies = {
        "opus": f"Opus at about {settings.kbps:g} kbps a channel, made from the 16-bit files that the metrics compare: "
        "far above the codecs' own bitrates, but not lossless",
        "flac": "FLAC, 16 bits: without loss",
        "wav": "WAV, 16 bits: without loss",
    }[settings.audio_format]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    parts = [
        f"<p><code>adjax evaluate</code> coded and measured the files ({escape(versions)}); <code>adjax report</code> "
        f"{escape(settings.version)} made this page of its results. Everything is in this one file; it loads "
        "nothing.</p>",
        f"<p>Figures in the tables are means over files with {interval:g} % bootstrap intervals ({draws:,} draws); a "
        "number in brackets is over how many files, where not over all. Arrows say what is better. “As decoded” leaves "
        "a system's constant lag in, which says nothing of how it sounds but moves metrics that compare samples or "
        "frames; below it the lag is undone.</p>",
    ]
    if evaluation.audible and chosen:
        parts.append(
            f"<p>To listen to: {copies}. Players hold what came out of each system, with no level or lag changed; the "
            "figures under them are of that one file, its system's lag undone. Of several channels, pictures show the "
            "mean.</p>"
        )
    return "".join(parts)


def _paragraphs(text: str) -> str:
    """Plain text, in which empty lines part paragraphs."""
    blocks = [block for block in text.replace("\r\n", "\n").split("\n\n") if block.strip()]
    return "".join(f"<p>{escape(block.strip())}</p>" for block in blocks)


def _asset(name: str) -> str:
    return (files("adjax.report") / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """For the page's content security policy, which lets nothing else run or load."""
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
