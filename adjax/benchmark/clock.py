"""Wall-clock times of calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def seconds(call: Callable[[], Any]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def times(call: Callable[[], Any], repeats: int) -> np.ndarray:
    """How long each of some calls takes, in seconds."""
    return np.array([seconds(call) for _ in range(repeats)])
