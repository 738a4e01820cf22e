"""`adjax benchmark`."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from adjax import benchmark, weights, zoo
from adjax.benchmark.plots import write_latency_plot
from adjax.cache import enable_compilation_cache
from adjax.cli.training import read_config, restart_with_allocator
from adjax.config import PARTS, Adversarial, TrainConfig, Vocoder
from adjax.errors import AdjaxError
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
    if arguments.plot and arguments.what != "latency":
        raise AdjaxError(f"--plot draws latency against the buffer; there is none in `benchmark {arguments.what}`")
    if arguments.what == "training":
        configs, phases = _training(arguments)
        if arguments.from_shell:
            restart_with_allocator()
    enable_compilation_cache()
    facts, rate = benchmark.facts(), benchmark.matrix_rate()
    facts["matrix_gflops"] = round(rate / 1e9, 1)
    if arguments.what == "training":
        made = [benchmark.training(c, phase, arguments.steps, rate) for phase in phases for c in configs]
        heads = ["model, phase", "batch", "precision", "s a step", "p10, s", "p90, s", "steps/s", "audio s/s"]
        heads += ["floor, s", "compile, s", "temporary, GB", "state, GB", "peak, GB"]
    elif arguments.what == "latency":
        made = [
            row
            for name, codec, part in _parts(arguments)
            for ms in arguments.buffers or benchmark.BUFFERS_MS
            if (row := benchmark.latency(codec, part, ms, arguments.repeats, rate)) is not None
            and (row := benchmark.named(row, name))
        ]
        heads = ["part", "buffer, ms", "p50, ms", "p95, ms", "p99, ms", "floor, ms"]
    elif arguments.what == "duplex":
        made = [
            benchmark.duplex(codec, ms, arguments.repeats)
            for _, codec, part in _parts(arguments)
            if part == "decode"  # once a pairing
            for ms in arguments.buffers or [25.0]
        ]
        heads = ["model", "buffer, ms", "streams", "p50, ms", "p99, ms"]
    else:
        made = []
        for name, codec, part in _parts(arguments):
            frames = max(1, round((arguments.buffers or [12.5])[0] / 1000 * codec.config.frame_rate_hz))
            streams = arguments.streams or STREAMS.get(name, 64)
            made.append(benchmark.named(benchmark.throughput(codec, part, streams, frames, arguments.repeats), name))
        heads = ["part", "streams", "together, s/s", "one by one, s/s", "ratio"]
    if arguments.plot:
        machine = ", ".join(f"{name} {value}" for name, value in facts.items())
        write_latency_plot([row for row in made if isinstance(row, benchmark.Latency)], machine, Path(arguments.plot))
    if arguments.json:
        print(json.dumps({"machine": facts, "rows": [asdict(row) for row in made]}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for row in made:
        print(f"| {' | '.join(row.row())} |")


def _training(arguments: Namespace) -> tuple[list[TrainConfig], list[benchmark.PhaseName]]:
    """What to measure, a configuration for each batch and precision, and its phases: all, or the one asked for.

    A model's name stands for mel and commitment loss, and for HiFi-GAN's discriminators against its decoder.
    """
    name = arguments.config
    if name in zoo.MODELS and not Path(name).exists():
        model = zoo.MODELS[name]
        trained = ("decoder",) if isinstance(model.decoder, Vocoder) else PARTS
        config = TrainConfig(model, trained=trained, adversarial=Adversarial(trained=("decoder",)))
    else:
        config = read_config(Path(name))
    data = replace(config.data, crop_samples=arguments.crop or config.data.crop_samples)
    configs = [
        replace(config, data=replace(data, batch_size=batch), precision=precision)
        for batch in arguments.batch or [data.batch_size]
        for precision in arguments.precision or [config.precision]
    ]
    phases: list[benchmark.PhaseName] = ["metric", "adversarial"] if config.adversarial else ["metric"]
    if config.adversarial and config.adversarial.start_step == 0:
        phases.remove("metric")
    return configs, phases if arguments.phase is None else [arguments.phase]


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
