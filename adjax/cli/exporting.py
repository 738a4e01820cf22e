"""`adjax export`."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from adjax import weights
from adjax.export import MANIFEST, export_stablehlo
from adjax.streaming import Codec


def export(arguments: Namespace) -> None:
    config, variables = weights.load_model(weights.find_model(arguments.model))
    folder = Path(arguments.output or Path("exported") / config.name)
    manifest = export_stablehlo(Codec(config, variables, kernels=False), folder, arguments.frames)
    chunk = manifest["frames_per_chunk"] * manifest["hop_samples"]
    print(f"{folder / MANIFEST}: steps for chunks of {chunk} samples, for {', '.join(manifest['platforms'])}")
