"""`adjax import-torch` and `adjax export-torch`."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np

from adjax import weights
from adjax.config import Vocoder
from adjax.nn.quantize import Codebooks
from adjax.torch_port import ZERO_DECODER, export_model, import_pairing


def import_torch(arguments: Namespace) -> None:
    decoder, stats = (Path(p) if p else None for p in (arguments.decoder, arguments.stats))
    config, variables = import_pairing(Path(arguments.encoder), decoder, stats, arguments.name)
    folder = weights.save_model(arguments.output, config, variables)
    print(f"{folder}: model {config.name}, {config.bitrate_bps / 1000:.2f} kbps, {config.source}; {config.licence}")


def export_torch(arguments: Namespace) -> None:
    config, variables = weights.load_model(weights.find_model(arguments.model))
    books = variables["codebook"]["quantizer"]
    if "embed_avg" not in books:  # left out of models that are not to be trained further; strict loading wants them
        books.update({k: np.asarray(v) for k, v in Codebooks.fresh(books["embed"])._asdict().items()})
    paths = export_model(config, variables, Path(arguments.output), arguments.steps)
    is_vocoder = isinstance(config.decoder, Vocoder)
    for path in paths:
        print(f"{path} ({ZERO_DECODER})" if is_vocoder and path is paths[0] else path)
