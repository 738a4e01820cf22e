"""`adjax import-torch` and `adjax export-torch`."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np

from adjax import weights
from adjax.config import Vocoder
from adjax.errors import AdjaxError
from adjax.nn.quantize import Codebooks
from adjax.torch_port import ZERO_DECODER, export_model, import_pairing


def import_torch(arguments: Namespace) -> None:
    if arguments.training:
        return _import_run(arguments)
    decoder, stats = (Path(p) if p else None for p in (arguments.decoder, arguments.stats))
    config, variables = import_pairing(Path(arguments.encoder), decoder, stats, arguments.name)
    folder = weights.save_model(arguments.output, config, variables)
    print(f"{folder}: model {config.name}, {config.bitrate_bps / 1000:.2f} kbps, {config.source}; {config.licence}")


def _import_run(arguments: Namespace) -> None:
    from adjax.torch_runs import import_run

    encoder, folder = Path(arguments.encoder) if arguments.encoder else None, Path(arguments.output)
    run = import_run(Path(arguments.training), folder, encoder, arguments.name)
    if run.left_behind:
        print(f"not carried over from config.yml: {', '.join(run.left_behind)}")
    print(
        f"{folder}: a run of {run.config.model.name} at step {run.step} of {run.config.steps}; "
        f"adjax train {folder} --resume --set 'data.train=[...]' goes on with it"
    )


def export_torch(arguments: Namespace) -> None:
    from adjax.torch_runs import export_run, is_run

    if is_run(Path(arguments.model)):
        if arguments.steps is not None:
            raise AdjaxError("--steps goes with a model's folder; a run's checkpoint states its own (--at)")
        for path in export_run(Path(arguments.model), Path(arguments.output), arguments.at):
            print(path)
        return
    if arguments.at is not None:
        raise AdjaxError(f"--at goes with a run's folder, but {arguments.model} is none")
    config, variables = weights.load_model(weights.find_model(arguments.model))
    books = variables["codebook"]["quantizer"]
    if "embed_avg" not in books:  # left out of models that are not to be trained further; strict loading wants them
        books.update({k: np.asarray(v) for k, v in Codebooks.settled(books["embed"])._asdict().items()})
    paths = export_model(config, variables, Path(arguments.output), arguments.steps or 1)
    is_vocoder = isinstance(config.decoder, Vocoder)
    for path in paths:
        print(f"{path} ({ZERO_DECODER})" if is_vocoder and path is paths[0] else path)
