"""Batches of random crops: deterministic, random access by batch number, the same for any number of hosts."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adjax.config import Data
from adjax.errors import AdjaxError
from adjax.train.data.augment import augmented, lead_samples, over_floor
from adjax.train.data.mixing import random_noise
from adjax.train.data.reading import UNREADABLE, finite_span
from adjax.train.data.sources import Source, files

if TYPE_CHECKING:
    import grain

ATTEMPTS = 16  # unreadable crops in a row before the run stops: by then it is the disk, not a file

Batch = np.ndarray | tuple[np.ndarray, np.ndarray]  # audio, or what the model hears and what it is to give

_log = logging.getLogger(__name__)


def crops(
    sources: Sequence[Source],
    data: Data,
    *,
    sample_rate_hz: int,
    channels: int,
    seed: int,
    shard: tuple[int, int] = (0, 1),
    noise: Sequence[Source] = (),
    background: Sequence[Source] = (),
    on_unreadable: Callable[[Path], None] | None = None,
) -> grain.MapDataset[Any]:
    """A dataset whose element k is batch k: float32[batch_size / hosts, context + crop, channels], at the model's rate.

    With paired sources, or with `noise`, it is a pair of such: what the model hears, and the clean audio. Noise is a
    random crop of a random file, at a signal-to-noise ratio uniform in `data.snr_db`, over the crop with its context.
    `data.augmentation` changes both alike, with `background` for its noise. Files of noise must be longer than
    `drawn_samples`.

    `shard` is (host, number of hosts). Host h holds rows h*b to (h+1)*b - 1 of the global batch, so the hosts' batches
    in order are the batch of a single host, and batch k depends on `seed` and k alone. Each file gives one crop an
    epoch, in an order shuffled anew each time, for ever. A crop starts at any sample with equal chance; the
    context is what precedes it in the file, with zeros before the file's first sample. The gain is uniform in dB.

    A crop that cannot be read any more, or is not finite, is logged, reported to `on_unreadable` (called from the
    reading threads) and replaced by one from another file, which again depends on `seed` and the position alone.
    """
    import grain

    host, hosts = shard
    if data.batch_size % hosts:
        raise AdjaxError(f"data.batch_size ({data.batch_size}) must be a multiple of the number of hosts ({hosts})")
    rows = data.batch_size // hosts
    seed = seed % 2**32
    augmentation = data.augmentation
    before = drawn_samples(data, sample_rate_hz) - data.crop_samples

    def drawn(position: int, rng: np.random.Generator, source: Source) -> list[np.ndarray]:
        if augmentation.speeds != (1.0,):  # or nothing is drawn for it, so that other runs keep their crops
            source = source.played(augmentation.speeds[int(rng.integers(len(augmentation.speeds)))])
        signals = _draw_crop(rng, source, data, before, sample_rate_hz, channels)
        if noise and source.noisy is None:
            added = random_noise(rng, signals[0], noise, data.snr_db, sample_rate_hz, channels)
            signals = [signals[0] + added, signals[0]]
        # Generators of their own: with and without augmentation the same crops are drawn.
        if augmentation.filters or background:
            changes = np.random.default_rng((seed, position, 1))
            signals = augmented(changes, signals, augmentation, background, sample_rate_hz, channels)
        if augmentation.noise_floor_db is not None:
            signals = over_floor(np.random.default_rng((seed, position, 2)), signals, augmentation.noise_floor_db)
        return signals

    def crop(row: tuple[int, int]) -> list[np.ndarray]:
        position, index = row
        rng = np.random.default_rng((seed, position))
        for _ in range(ATTEMPTS):
            source = sources[index]
            try:
                return drawn(position, rng, source)
            except UNREADABLE as error:
                _log.warning("%s cannot be read any more and is left out of this batch: %s", source.path, error)
                if on_unreadable:
                    on_unreadable(source.path)
            index = int(rng.integers(len(sources)))
        raise AdjaxError(f"{ATTEMPTS} crops in a row could not be read: are the {files(len(sources))} still there?")

    # Rows are numbered before hosts take their part of a batch, so the number of hosts cannot change what is drawn.
    rows_of_all_hosts = grain.MapDataset.source(range(len(sources))).seed(seed).shuffle().repeat()
    numbered = rows_of_all_hosts.map_with_index(lambda position, index: (position, index))
    batched = numbered.batch(data.batch_size, drop_remainder=True, batch_fn=list)

    def stacked(batch: list[tuple[int, int]]) -> Batch:
        columns = [np.stack(c) for c in zip(*map(crop, batch[host * rows : (host + 1) * rows]), strict=True)]
        return columns[0] if len(columns) == 1 else (columns[0], columns[1])

    return batched.map(stacked)


def drawn_samples(data: Data, sample_rate_hz: int) -> int:
    """Samples drawn for a crop: itself, its context, and what the filters of its augmentation need before that."""
    return lead_samples(data.augmentation, sample_rate_hz) + data.context_samples + data.crop_samples


def heard(batch: Batch) -> np.ndarray:
    """The part of a batch that the model hears."""
    return batch[0] if isinstance(batch, tuple) else batch


def batches(dataset: grain.MapDataset[Any], start_step: int = 0, threads: int | None = None) -> Iterator[Batch]:
    """The batches of `dataset` from number `start_step` on, read ahead by `threads` (None: one a core, at most 8).

    Order and content do not depend on the number of threads; 0 reads in the calling thread. The iterator's `close`
    ends its threads.
    """
    import grain

    threads = min(os.cpu_count() or 1, 8) if threads is None else threads
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    iterator = iter(dataset.to_iter_dataset(options))
    iterator.set_state({"next_index": start_step})
    return iterator


def _draw_crop(
    rng: np.random.Generator, source: Source, data: Data, before: int, sample_rate_hz: int, channels: int
) -> list[np.ndarray]:
    """A random crop of `source` and what is `before` it, with gain, float32[before + crop, channels]; noisy first."""
    start = int(rng.integers(source.samples(sample_rate_hz) - data.crop_samples + 1))
    channel = int(rng.integers(source.channels)) if channels == 1 else None
    gain = np.float32(10.0 ** (rng.uniform(*data.gain_db) / 20))
    held = min(start, before)
    signals = []
    for version in (source,) if source.noisy is None else (source.noisy, source):
        audio = finite_span(version, start - held, held + data.crop_samples, sample_rate_hz, channel)
        if held < before:
            audio = np.concatenate([np.zeros((before - held, audio.shape[1]), np.float32), audio])
        signals.append(audio * gain)
    return signals
