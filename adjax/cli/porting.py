"""`adjax import-torch` and `adjax export-torch`."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np

from adjax import weights
from adjax.errors import AdjaxError
from adjax.nn.quantize import Codebooks
from adjax.torch_port import export_checkpoint, import_checkpoint


def import_torch(arguments: Namespace) -> None:
    config, variables, steps = import_checkpoint(Path(arguments.encoder), arguments.name)
    if arguments.decoder:
        other, decoder, _ = import_checkpoint(Path(arguments.decoder), config.name)
        ours, theirs = (tree["codebook"]["quantizer"]["embed"] for tree in (variables, decoder))
        if not np.array_equal(ours, theirs):
            raise AdjaxError(f"{arguments.decoder}: its decoder was trained with other codebooks than the encoder's")
        config = replace(config, decoder=other.decoder)
        variables["params"]["decoder"] = decoder["params"]["decoder"]
    folder = weights.save_model(arguments.output, config, variables)
    print(f"{folder}: model {config.name}, {config.bitrate_bps / 1000:.2f} kbps, checkpoint of {steps} steps")


def export_torch(arguments: Namespace) -> None:
    config, variables = weights.load_model(weights.find_model(arguments.model))
    books = variables["codebook"]["quantizer"]
    if "embed_avg" not in books:  # left out of models that are not to be trained further; strict loading wants them
        books.update({k: np.asarray(v) for k, v in Codebooks.fresh(books["embed"])._asdict().items()})
    print(export_checkpoint(config, variables, Path(arguments.output), arguments.steps))
