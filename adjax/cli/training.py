"""`adjax train`."""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import runpy
import signal
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    if arguments.average > 1 and not arguments.export:
        raise AdjaxError("--average is of what --export writes: name a folder with --export, too")
    source = Path(arguments.config)
    default = Path("runs") / source.stem
    if source.is_dir():  # a run: its resolved configuration, and itself
        source, default = source / "config.json", source
    config = override(read_config(source), arguments.set)
    run_dir = Path(arguments.run_dir or default)
    if arguments.from_shell:
        restart_with_allocator()
    join_hosts(arguments)
    import jax

    from adjax.cache import enable_compilation_cache
    from adjax.train import loop

    logging.basicConfig(format="adjax: %(message)s", stream=sys.stderr)
    logging.getLogger("adjax").setLevel(logging.INFO if jax.process_index() == 0 else logging.WARNING)
    if not getattr(arguments, "debug", False):
        for name in ("absl", "asyncio"):  # pages on a failed save, which is an error of ours already
            logging.getLogger(name).setLevel(logging.CRITICAL)
    enable_compilation_cache()
    with stop_request(arguments.stop_after) as stop:
        folder, steps = loop.train(config, run_dir, resume=arguments.resume, stop=stop)
    if arguments.export:
        folder = loop.export(run_dir, Path(arguments.export), storage=arguments.export_type, average=arguments.average)
    if jax.process_index() == 0:
        more = "" if steps >= config.steps else f" of {config.steps}; go on with --resume"
        print(f"{folder}: trained for {steps} steps{more}")


@contextmanager
def stop_request(minutes: float | None) -> Iterator[Callable[[], bool]]:
    """Whether to stop training: after so many minutes, or when the process was told to terminate.

    Batch systems send SIGTERM some seconds before they kill a job.
    """
    told, end = threading.Event(), math.inf if minutes is None else time.monotonic() + 60 * minutes
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield lambda: told.is_set() or time.monotonic() >= end
    finally:
        signal.signal(signal.SIGTERM, before)


def join_hosts(arguments: Namespace) -> None:
    """Connects this process with the others of its run, if the options say that there are any.

    Raises AdjaxError for options that do not fit each other, and where the others cannot be reached.
    """
    numbered = (arguments.coordinator, arguments.processes, arguments.process)
    given = [value is not None for value in numbered]
    if arguments.distributed and any(given):
        raise AdjaxError("--distributed asks the environment; --coordinator, --processes and --process go without it")
    if any(given) and not all(given):
        raise AdjaxError("--coordinator, --processes and --process go together")
    if not arguments.distributed and not all(given):
        return
    if all(given) and not 0 <= arguments.process < arguments.processes:
        raise AdjaxError(f"--process ({arguments.process}) must be from 0 to {arguments.processes - 1}")
    import jax

    try:
        if arguments.distributed:
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(*numbered)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        option = "--distributed" if arguments.distributed else f"--coordinator {arguments.coordinator}"
        raise AdjaxError(f"{option}: cannot join the other hosts: {reason}") from error


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
