"""Times reading of training batches from folders and prepared sets: crops a second, for each number of threads.

python scripts/time_data.py PATH ... [--rate HZ] [--batches N] [--crop N] [--threads N ...] [--equalizer-db G]
[--in-memory]
"""

from __future__ import annotations

import argparse
import time

from adjax.config import Augmentation, Data
from adjax.train import data

BATCH_SIZE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("paths", nargs="+", help="folders, lists, or prepared sets as DIR:SPLIT; each timed by itself")
    parser.add_argument("--rate", type=int, default=48000)
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--crop", type=int, default=9600)
    parser.add_argument("--threads", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--equalizer-db", type=float, default=0.0)
    parser.add_argument("--in-memory", action="store_true", help="and each once more from memory")
    arguments = parser.parse_args()
    settings = Data(
        batch_size=BATCH_SIZE,
        crop_samples=arguments.crop,
        augmentation=Augmentation(equalizer_db=arguments.equalizer_db),
    )
    print("| source | threads | crops/s | MB/s of float32 |")
    print("| --- | --- | --- | --- |")
    for path in arguments.paths:
        sources, _ = data.scan([path], arguments.rate, 1, settings.crop_samples)
        places = {path: sources}
        if arguments.in_memory:
            places[f"{path}, in memory"] = data.hold(sources)
        datasets = {
            name: data.crops(held, settings, sample_rate_hz=arguments.rate, channels=1, seed=0)
            for name, held in places.items()
        }
        for threads in arguments.threads:
            for name, dataset in datasets.items():
                crops_a_second = rate(dataset, arguments.batches, threads) * BATCH_SIZE
                print(f"| {name} | {threads} | {crops_a_second:.0f} | {crops_a_second * arguments.crop * 4e-6:.0f} |")


def rate(dataset: object, count: int, threads: int) -> float:
    """Batches a second over `count` of them, after a first pass over the same that fills the page cache."""
    seconds = 0.0
    for _ in range(2):
        iterator = data.batches(dataset, 0, threads)  # pyright: ignore
        start = time.perf_counter()
        for _ in range(count):
            next(iterator)
        seconds = time.perf_counter() - start
        iterator.close()  # pyright: ignore
    return count / seconds


if __name__ == "__main__":
    main()
