"""`adjax prepare`."""

from __future__ import annotations

import logging
import sys
from argparse import Namespace

from adjax.cli.coding import progress_bar
from adjax.train.prepare import prepare


def run(arguments: Namespace) -> None:
    logging.basicConfig(format="adjax: %(message)s", stream=sys.stderr)
    with progress_bar("preparing") as progress:
        summary = prepare(
            arguments.paths,
            arguments.out_dir,
            sample_rate_hz=arguments.rate,
            layout=arguments.layout,
            name=arguments.name,
            splits=arguments.splits,
            validation_share=arguments.validation_share,
            microphone=arguments.microphone,
            shards=arguments.shards,
            segment_seconds=arguments.segment_seconds,
            strict=arguments.strict,
            workers=arguments.workers,
            progress=progress,
        )
    marker = summary.marker
    for split in marker.splits:
        hours = split.samples / marker.sample_rate_hz / 3600
        print(f"{arguments.out_dir}:{split.name}: {split.files} files, {hours:.2f} h at {marker.sample_rate_hz} Hz")
    if summary.refused:
        print(f"adjax: warning: {len(summary.refused)} files were left out; see left_out.tsv there", file=sys.stderr)
    if summary.clipped:
        print(f"adjax: warning: {summary.clipped} samples were beyond 16 bits and clipped", file=sys.stderr)
