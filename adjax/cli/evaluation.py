"""`adjax evaluate`."""

from __future__ import annotations

import sys
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path

from adjax import __version__, evaluate
from adjax.cli.coding import progress_bar
from adjax.errors import AdjaxError


def run(arguments: Namespace) -> None:
    output = None if arguments.folder is None else Path(arguments.folder)
    _check(arguments, output)
    items = evaluate.find_items(arguments.natural, arguments.limit)
    decoded = [evaluate.decoded_system(*_named_folder(text), items) for text in arguments.decoded]
    models = arguments.model or ([None] if arguments.codebooks or not (decoded or arguments.opus) else [])
    systems = [
        *evaluate.model_systems(models, arguments.codebooks),
        *evaluate.opus_systems(arguments.opus),
        *decoded,
    ]
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    with progress_bar("evaluating") as progress:
        results = evaluate.evaluate(items, systems, output, arguments.save_audio, arguments.jobs, progress)
    results["versions"] = {"adjax": __version__, **results["versions"]}
    if output is not None:
        evaluate.write_results(results, output)
    if output is not None and arguments.plot:
        from adjax.evaluate.plots import write_plots

        write_plots(results, output)
    print("\n\n".join(evaluate.report(results)))
    for lost in results["failures"]:
        where = f"{lost['file']}, {lost['system']}" if lost["system"] else lost["file"]
        print(f"adjax: warning: {where}: {lost['reason']}", file=sys.stderr)
    failed = {lost["file"] for lost in results["failures"]}
    if failed:
        raise AdjaxError(
            f"{len(failed)} of {len(items)} files could not be evaluated or not by every system; see above"
        )


def _check(arguments: Namespace, output: Path | None) -> None:
    if not arguments.natural:
        raise AdjaxError(
            "no folder of natural speech is named; put it first, or after `--`: options such as --model take all names "
            "that follow them"
        )
    for option, wanted in (("--save-audio", arguments.save_audio), ("--plot", arguments.plot)):
        if wanted and output is None:
            raise AdjaxError(f"{option} needs a folder: --output DIR")
    if arguments.plot and find_spec("matplotlib") is None:
        raise AdjaxError("--plot needs the Python package 'matplotlib': pip install 'adjax[plots]'")


def _named_folder(text: str) -> tuple[str, str]:
    name, equals, folder = text.partition("=")
    if not equals or not name or not folder:
        raise AdjaxError(f"--decoded {text}: give a name and a folder as NAME=FOLDER")
    return name, folder
