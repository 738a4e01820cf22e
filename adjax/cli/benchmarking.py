"""`adjax benchmark`."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator

from adjax import benchmark, weights, zoo
from adjax.cache import enable_compilation_cache
from adjax.streaming import Codec

# The rows of the published latency table: name, model, part.
PUBLISHED = (
    ("encoder", "symad48", "encode"),
    ("sym", "symad48", "decode"),
    ("v0", "symad48-v0", "decode"),
    ("v1", "symad48-v1", "decode"),
    ("v2", "symad48-v2", "decode"),
)
STREAMS = {"encoder": 64, "sym": 64, "v0": 16, "v1": 16, "v2": 16}


def run(arguments: Namespace) -> None:
    enable_compilation_cache()
    facts, rate = benchmark.facts(), benchmark.matrix_rate()
    facts["matrix_gflops"] = round(rate / 1e9, 1)
    if arguments.what == "latency":
        made = [
            row
            for name, codec, part in _parts(arguments)
            for ms in arguments.buffers or benchmark.BUFFERS_MS
            if (row := benchmark.latency(codec, part, ms, arguments.repeats, rate)) is not None
            and (row := benchmark.named(row, name))
        ]
        heads = ["part", "buffer, ms", "p50, ms", "p95, ms", "p99, ms", "floor, ms"]
    else:
        made = []
        for name, codec, part in _parts(arguments):
            frames = max(1, round((arguments.buffers or [12.5])[0] / 1000 * codec.config.frame_rate_hz))
            streams = arguments.streams or STREAMS.get(name, 64)
            made.append(benchmark.named(benchmark.throughput(codec, part, streams, frames, arguments.repeats), name))
        heads = ["part", "streams", "together, s/s", "one by one, s/s", "ratio"]
    if arguments.json:
        print(json.dumps({"machine": facts, "rows": benchmark.as_json(made)}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for row in made:
        print(f"| {' | '.join(row.row())} |")


def _parts(arguments: Namespace) -> Iterator[tuple[str, Codec, str]]:
    """Name, codec and part of every row: a model's two parts, or the published rows with random weights."""
    if arguments.model:
        codec = Codec.load(arguments.model)
        for part in ("encode", "decode"):
            yield f"{codec.config.name} {part}", codec, part
        return
    made: dict[str, Codec] = {}
    for name, model, part in PUBLISHED:
        if arguments.parts and name not in arguments.parts:
            continue
        if model not in made:
            made = {model: Codec(zoo.MODELS[model], benchmark.random_variables(zoo.MODELS[model]))}
        yield name, made[model], part
    if not arguments.parts:
        codec = Codec(*weights.load_model(weights.find_model()))
        for part in ("encode", "decode"):
            yield f"{codec.config.name} {part}", codec, part
