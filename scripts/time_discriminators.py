"""Discriminators' convolutions at their published sizes: XLA's own against the formulations of adjax.nn.normed.

Usage: taskset -c 0 python scripts/time_discriminators.py [--batch N] [--repeats N]
Prints medians in ms, forward / forward and backward, the two taking turns.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from adjax.nn import normed

# What the layer belongs to, signals for each of the batch, input axes and channels, output channels, kernel, strides,
# groups; crops of 9600 samples. A period discriminator sees `period` signals of 9600 / period samples.
LAYERS = (
    ("scale", 1, (9600,), 1, 128, (15,), (1,), 1),
    ("scale", 1, (9600,), 128, 128, (41,), (4,), 4),
    ("scale", 1, (2400,), 128, 256, (41,), (4,), 16),
    ("scale", 1, (600,), 256, 512, (41,), (4,), 16),
    ("scale", 1, (150,), 512, 1024, (41,), (4,), 16),
    ("scale", 1, (38,), 1024, 1024, (41,), (1,), 16),
    ("scale", 1, (38,), 1024, 1024, (5,), (1,), 1),
    ("period 3", 3, (1067,), 32, 128, (5,), (3,), 1),
    ("period 3", 3, (356,), 128, 512, (5,), (3,), 1),
    ("period 3", 3, (119,), 512, 1024, (5,), (3,), 1),
    ("period 3", 3, (40,), 1024, 1024, (5,), (1,), 1),
    ("resolution", 1, (86, 513), 32, 32, (3, 9), (1, 2), 1),
    ("resolution", 1, (86, 257), 32, 32, (3, 9), (1, 2), 1),
    ("resolution", 1, (86, 129), 32, 32, (3, 9), (1, 2), 1),
)


def milliseconds(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median of each, after a call that compiles."""
    times = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(row[1:]) for name, row in times.items()}


def main(batch: int, repeats: int) -> None:
    rng = np.random.default_rng(0)
    print("of, [axes, in] -> out, kernel / strides, groups: XLA's own; adjax.nn.normed")
    for title, signals, axes, inputs, features, size, strides, groups in LAYERS:
        padding = tuple(k // 2 for k in size)
        layout = ("NWC", "WIO", "NWC") if len(axes) == 1 else ("NHWC", "HWIO", "NHWC")

        def own(x: Array, kernel: Array, strides=strides, padding=padding, layout=layout, groups=groups) -> Array:
            sides = [(p, p) for p in padding]
            return lax.conv_general_dilated(
                x, kernel, strides, sides, dimension_numbers=layout, feature_group_count=groups
            )

        def chosen(x: Array, kernel: Array, strides=strides, padding=padding, groups=groups) -> Array:
            return normed.convolve(x, kernel, strides, padding, groups)

        x = jnp.asarray(rng.standard_normal((batch * signals, *axes, inputs)), jnp.float32)
        kernel = jnp.asarray(rng.standard_normal((*size, inputs // groups, features)) * 0.05, jnp.float32)
        dy = jnp.asarray(rng.standard_normal(jax.eval_shape(own, x, kernel).shape), jnp.float32)
        runs = {}
        for name, f in (("own", own), ("chosen", chosen)):

            def both(x: Array, kernel: Array, dy: Array, f=f) -> tuple[Array, tuple[Array, Array]]:
                y, pull = jax.vjp(f, x, kernel)
                return y, pull(dy)

            runs[name] = functools.partial(jax.jit(f), x, kernel)
            runs[f"{name}, both"] = functools.partial(jax.jit(both), x, kernel, dy)
        ms = milliseconds(runs, repeats)
        row = "; ".join(f"{ms[name]:.1f} / {ms[f'{name}, both']:.1f}" for name in ("own", "chosen"))
        print(f"{title}, {[*axes, inputs]} -> {features}, {size} / {strides}, {groups}: {row}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4, help="crops (4)")
    parser.add_argument("--repeats", type=int, default=7, help="timed calls of each (7)")
    arguments = parser.parse_args()
    main(arguments.batch, arguments.repeats)
