"""How fast adjax is on this machine: streaming, training, and the floor that arithmetic sets."""

from __future__ import annotations

from adjax.benchmark.floor import facts, matrix_rate
from adjax.benchmark.steps import PhaseName, Training, training
from adjax.benchmark.streams import (
    BUFFERS_MS,
    Duplex,
    Latency,
    Throughput,
    duplex,
    latency,
    named,
    operations,
    throughput,
)
from adjax.benchmark.weights import random_variables

__all__ = [
    "BUFFERS_MS",
    "Duplex",
    "Latency",
    "PhaseName",
    "Throughput",
    "Training",
    "duplex",
    "facts",
    "latency",
    "matrix_rate",
    "named",
    "operations",
    "random_variables",
    "throughput",
    "training",
]
