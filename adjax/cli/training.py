"""`adjax train`."""

from __future__ import annotations

import json
import logging
import os
import platform
import runpy
import sys
from argparse import Namespace
from pathlib import Path

from adjax.config import TrainConfig
from adjax.errors import AdjaxError
from adjax.strict_json import ConfigError, from_dict, override

# glibc gives every large temporary buffer of XLA back to the kernel and faults it in again at the next step, which
# takes a good part of a step on CPUs. It reads these when a program starts.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}


def train(arguments: Namespace) -> None:
    source = Path(arguments.config)
    default = Path("runs") / source.stem
    if source.is_dir():  # a run: its resolved configuration, and itself
        source, default = source / "config.json", source
    config = override(read_config(source), arguments.set)
    run_dir = Path(arguments.run_dir or default)
    if arguments.from_shell:
        restart_with_allocator()
    from adjax.cache import enable_compilation_cache
    from adjax.train import loop

    logging.basicConfig(format="adjax: %(message)s", stream=sys.stderr)
    logging.getLogger("adjax").setLevel(logging.INFO)
    enable_compilation_cache()
    folder = loop.train(config, run_dir, resume=arguments.resume)
    if arguments.export:
        folder = loop.export(run_dir, Path(arguments.export), compact=True)
    print(f"{folder}: trained for {config.steps} steps")


def read_config(path: Path) -> TrainConfig:
    """The training configuration that a Python file defines as `config`, or that a JSON file holds.

    A Python file is run, with its folder first on the path. Raises ConfigError, which names the file.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; a Python file that defines `config`, or a JSON file, is needed")
    try:
        if path.suffix == ".json":
            return from_dict(TrainConfig, json.loads(path.read_bytes()))
        sys.path.insert(0, str(path.resolve().parent))
        try:
            config = runpy.run_path(str(path)).get("config")
        finally:
            sys.path.pop(0)
    except AdjaxError as error:
        raise ConfigError(f"{path}: {error}") from None
    except Exception as error:  # whatever a configuration's own code raises
        raise ConfigError(f"{path}: {type(error).__name__}: {error}") from error
    if not isinstance(config, TrainConfig):
        raise ConfigError(f"{path}: must define `config`, an adjax.config.TrainConfig")
    return config


def restart_with_allocator() -> None:
    """Starts the program again, once, with ALLOCATOR in its environment; ADJAX_NO_REEXEC=1 leaves that out."""
    missing = {name: value for name, value in ALLOCATOR.items() if name not in os.environ}
    if not missing or os.environ.get("ADJAX_NO_REEXEC") or sys.platform != "linux":
        return
    if platform.libc_ver()[0] != "glibc":
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **missing, "ADJAX_NO_REEXEC": "1"})
