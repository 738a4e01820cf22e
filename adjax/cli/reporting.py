"""`adjax report`."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from adjax import __version__, report
from adjax.audio import os_reason, replacing
from adjax.cli.coding import progress_bar
from adjax.errors import AdjaxError


def run(arguments: Namespace) -> None:
    settings = report.Settings(
        title=arguments.title or report.Settings.title,
        limit=arguments.limit,
        utterances=arguments.utterances,
        systems=arguments.systems,
        audio_format=arguments.format,
        kbps=arguments.kbps,
        credits=_text(Path(arguments.credits)) if arguments.credits else "",
        version=__version__,
    )
    evaluation = report.read_evaluation(arguments.evaluation)
    runs = [report.read_run(path) for path in arguments.run_dirs]
    benchmarks = [report.read_benchmark(path) for path in arguments.benchmark]
    with progress_bar("reporting") as progress:
        page = report.build_page(evaluation, settings, runs, benchmarks, progress).encode("utf-8")
    with replacing(arguments.output) as temporary:
        temporary.write_bytes(page)
    print(f"{arguments.output}: {len(page) / 1e6:.2f} MB")
    if not evaluation.audible:
        print("tables only: it was evaluated without --save-audio")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise AdjaxError(f"{path}: {os_reason(error)}") from None
    except ValueError:
        raise AdjaxError(f"{path}: is not UTF-8 text, as credits must be") from None
