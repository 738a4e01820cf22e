"""The persistent compilation cache: what XLA compiled once starts at once the next time."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def cache_folder() -> Path | None:
    """Where adjax keeps what it can make again: ADJAX_CACHE_DIR, or `adjax` in the user's cache folder.

    None where ADJAX_CACHE_DIR is set but empty, and where there is no home folder.
    """
    chosen = os.environ.get("ADJAX_CACHE_DIR")
    if chosen is not None:
        return Path(chosen) if chosen else None
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "adjax"
    except RuntimeError:
        return None


def private_folder(name: str) -> Path | None:
    """A folder for files that will be run, in `cache_folder()`, made with mode 0700; None where others may write to it.

    None too where caching is off and where nothing can be written.
    """
    base = cache_folder()
    if base is None:
        return None
    folder = base / name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError:
        return None
    private = not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and status.st_uid == os.getuid()
    return folder if private and os.access(folder, os.W_OK | os.X_OK) else None


def enable_compilation_cache() -> Path | None:
    """Lets JAX keep compiled programs in `cache_folder()`; the folder, or None where that is off or not safe.

    Call it before the first compilation. JAX runs what it finds there, so the folder is made with mode 0700 and not
    used where others may write to it. A folder chosen through JAX's own settings stays.
    """
    import jax

    chosen = jax.config.values["jax_compilation_cache_dir"]
    if chosen:
        return Path(chosen)
    folder = private_folder("xla")
    if folder is None:
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    return folder
