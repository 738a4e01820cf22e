"""`adjax models` and `adjax info`: what is known here, and what a bitstream holds."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

from adjax import weights, zoo
from adjax.audio import os_reason
from adjax.bitstream import BitstreamError, Reader
from adjax.config import ModelConfig
from adjax.errors import AdjaxError

DAMAGE_SHOWN = 10


def models(arguments: Namespace) -> None:
    rows = list(_rows())
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    heads = ("name", "rate/Hz", "kbps", "hop", "latency/ms", "parameters", "licence", "where from")
    lines = [heads] + [
        (
            row["name"] + ("*" if row["default"] else ""),
            f"{row['sample_rate_hz']}",
            f"{row['kbps']:.2f}",
            f"{row['hop_samples']}",
            f"{row['latency_ms']:.2f}",
            f"{row['parameters'] / 1e6:.2f} M",
            row["licence"],
            row["source"] + ("" if row["included"] else " (not included)"),
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    for line in lines:
        cells = [c.rjust(w) if 1 <= i <= 5 else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        print("  ".join(cells).rstrip())
    print("* default. Models that are not included: make their folders with `adjax train` or `adjax import-torch`.")


def _rows() -> Iterator[dict[str, Any]]:
    """One a model: those of the zoo, then others that lie where models that come with adjax lie."""
    there: dict[str, ModelConfig] = {}
    for folder in weights.checkpoint_folders():
        for path in sorted(folder.glob(f"*/{weights.CONFIG_FILE}")):
            there.setdefault(path.parent.name, weights.read_config(path))
    for name, config in (zoo.MODELS | there).items():
        yield {
            "name": name,
            "default": name == zoo.DEFAULT_MODEL,
            "included": name in there,
            "sample_rate_hz": config.sample_rate_hz,
            "kbps": config.bitrate_bps / 1000,
            "hop_samples": config.hop_samples,
            "latency_ms": 1000 * (config.hop_samples + config.delay_samples) / config.sample_rate_hz,
            "parameters": _parameters(replace(config, name="shapes", licence="", source="", sample_rate_hz=48000)),
            "licence": config.licence,
            "source": config.source,
        }


@lru_cache
def _parameters(config: ModelConfig) -> int:
    """Weights and codebook values as `Codec.num_parameters` counts them, from the shapes alone."""
    import jax

    from adjax.models.codec import init, without_weight_norm

    tree = jax.eval_shape(lambda: init(without_weight_norm(config), jax.random.key(0)))
    kept = [tree["params"], tree["codebook"]["quantizer"]["embed"]]
    return sum(leaf.size for leaf in jax.tree.leaves(kept))


def info(arguments: Namespace) -> None:
    path = os.fspath(arguments.input)
    try:
        with open(path, "rb") as file:
            facts, damage = _inspect(Reader(file))
            facts = {"file": path, "bytes": file.seek(0, 2), **facts}
    except OSError as error:
        raise AdjaxError(f"{path}: {os_reason(error)}") from None
    if arguments.json:
        print(json.dumps({**facts, "damage": damage}, indent=2))
    else:
        for name, value in facts.items():
            print(f"{name.replace('_', ' '):20} {'unknown' if value is None else value}")
        print(f"{'integrity':20} {'every block is intact' if not damage else 'damaged'}")
        for line in damage[:DAMAGE_SHOWN]:
            print(f"  {line}")
        if len(damage) > DAMAGE_SHOWN:
            print(f"  and {len(damage) - DAMAGE_SHOWN} more")
    if damage:
        raise AdjaxError(f"{path}: damaged: {len(damage)} of its parts cannot be decoded")


def _inspect(reader: Reader) -> tuple[dict[str, Any], list[str]]:
    """What the header says, and a line on every damaged part."""
    damage, blocks = [], 0
    for block in reader.blocks():
        blocks += 1
        if block.error is not None:
            damage.append(str(block.error))
    try:
        reader.check_complete()
    except BitstreamError as error:
        damage.append(str(error))
    header, duration, bits = reader.header, reader.duration_s, reader.payload_bits
    facts = {
        "model": header.name or None,
        "fingerprint": header.fingerprint.hex(),
        "duration_s": None if duration is None else round(duration, 3),
        "samples": reader.samples,
        "channels": header.channels,
        "input_sample_rate_hz": header.input_sample_rate_hz,
        "model_sample_rate_hz": header.sample_rate_hz,
        "payload_kbps": round(bits / duration / 1000, 3) if bits and duration else None,
        "hop_samples": header.hop_samples,
        "frames": reader.frames,
        "codebooks": header.codebooks,
        "codebook_size": header.codebook_size,
        "frames_per_block": header.frames_per_block,
        "blocks": blocks,
    }
    return facts, damage
