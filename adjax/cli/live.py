"""`adjax live`, `send` and `receive`."""

from __future__ import annotations

import json
import os
import sys
import threading
import webbrowser
from argparse import Namespace
from typing import Any

import adjax
from adjax import live
from adjax.cache import enable_compilation_cache
from adjax.errors import AdjaxError
from adjax.live.statistics import text
from adjax.streaming import Codec


def run(arguments: Namespace) -> None:
    if arguments.list_devices:
        _print_devices(arguments.json)
        return
    if arguments.web:
        _serve(arguments)
        return
    if arguments.fast and not (arguments.input and arguments.output):
        raise AdjaxError("--fast: only files can be faster than real time; give --input and --output")
    codec = _load(arguments.model)
    frames = live.frames_of_ms(codec, arguments.chunk_ms)
    source, sink = _source(arguments, codec, frames), _sink(arguments, codec, frames)
    report = live.run_live(
        codec,
        source,
        sink,
        frames,
        arguments.codebooks,
        arguments.gain_db,
        arguments.record,
        arguments.buffer_ms / 1000,
        arguments.fast,
    )
    _print(report, arguments.json)


def send(arguments: Namespace) -> None:
    if arguments.list_devices:
        _print_devices(arguments.json)
        return
    codec = _load(arguments.model)
    frames = live.frames_of_ms(codec, arguments.chunk_ms)
    report = live.run_send(
        codec,
        _source(arguments, codec, frames),
        arguments.host,
        arguments.port,
        frames,
        arguments.codebooks,
        arguments.max_kbps,
        arguments.gain_db,
        arguments.record,
    )
    _print(report, arguments.json)


def receive(arguments: Namespace) -> None:
    if arguments.list_devices:
        _print_devices(arguments.json)
        return
    codec = _load(arguments.model)
    frames = live.frames_of_ms(codec, arguments.chunk_ms)
    report = live.run_receive(
        codec,
        _sink(arguments, codec, frames),
        arguments.bind,
        arguments.port,
        frames,
        arguments.jitter_ms / 1000,
        arguments.buffer_ms / 1000,
        stay=arguments.stay,
        duration_s=arguments.duration,
        record=arguments.record,
        listening=lambda address: print(f"adjax: listening on {address[0]}, port {address[1]}", file=sys.stderr),
    )
    _print(report, arguments.json)


def _serve(arguments: Namespace) -> None:
    unused = ("input", "output", "input_device", "output_device", "record", "duration", "gain_db", "fast", "json")
    for name in unused:
        if getattr(arguments, name):
            raise AdjaxError(
                f"--web and --{name.replace('_', '-')}: the page is both source and output; give one of them"
            )
    try:
        from adjax.live.web import run_web
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "websockets":
            raise
        raise AdjaxError("--web needs the package `websockets`: pip install 'adjax[web]'") from None

    def opened(address: str) -> None:
        print(f"adjax: {address} until Ctrl-C", file=sys.stderr)
        screen = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        if screen and not arguments.no_open:  # elsewhere a browser could take over the terminal
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    enable_compilation_cache()
    run_web(arguments.model, arguments.host, arguments.port, arguments.chunk_ms, arguments.codebooks, opened)


def _source(arguments: Namespace, codec: Codec, frames: int) -> live.FileSource | live.DeviceSource:
    rate, channels, chunk = codec.sample_rate, codec.audio_channels, frames * codec.hop_length
    if arguments.input is None:
        device = _device(arguments.input_device)
        return live.DeviceSource(device, rate, channels, chunk, arguments.device_latency, arguments.duration)
    if arguments.input_device is not None:
        raise AdjaxError("--input and --input-device: give one of them")
    pace = None if getattr(arguments, "fast", False) else 1.0
    return live.FileSource(arguments.input, rate, channels, chunk, pace, arguments.duration)


def _sink(arguments: Namespace, codec: Codec, frames: int) -> live.FileSink | live.DeviceSink:
    rate, channels, chunk = codec.sample_rate, codec.audio_channels, frames * codec.hop_length
    if arguments.output is None:
        return live.DeviceSink(_device(arguments.output_device), rate, channels, chunk, arguments.device_latency)
    if arguments.output_device is not None:
        raise AdjaxError("--output and --output-device: give one of them")
    pace = None if getattr(arguments, "fast", False) else 1.0
    return live.FileSink(arguments.output, rate, channels, chunk, pace)


def _device(name: str | None) -> int | str | None:
    return int(name) if name is not None and name.isdecimal() else name


def _load(model: str | None) -> Codec:
    enable_compilation_cache()
    return adjax.load(model)


def _print_devices(as_json: bool) -> None:
    devices = live.list_devices()
    if as_json:
        print(json.dumps(devices, indent=2))
        return
    for d in devices:
        marks = [kind for kind in ("input", "output") if d[f"default_{kind}"]]
        default = f"  (default {' and '.join(marks)})" if marks else ""
        print(f"{d['index']:3}  {d['name']}: {d['input_channels']} in, {d['output_channels']} out{default}")
    if not devices:
        print("no sound devices")


def _print(report: dict[str, Any], as_json: bool) -> None:
    print(json.dumps(report, indent=2) if as_json else "\n".join(text(report)))
