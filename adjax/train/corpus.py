"""The audio of a run: its training and validation crops, clean or with noise, from what a configuration names."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, NamedTuple

import jax

from adjax.config import TrainConfig
from adjax.train import data

VALIDATION_SEED = 1_000_003

_log = logging.getLogger(__name__)


class Corpus(NamedTuple):
    """Datasets that give batch k of the whole run, this host's share of it, and validation batch k."""

    whole: Any
    share: Any
    validation: Any | None


def open_corpus(config: TrainConfig) -> Corpus:
    """The corpus of a run; AdjaxError if no audio is usable, or a noisy version is missing."""
    model, wanted = config.model, config.data
    find = partial(data.scan, sample_rate_hz=model.sample_rate_hz, channels=model.audio_channels)
    sources, report = find(wanted.train, minimum_samples=wanted.crop_samples)
    _log.info("training data: %s", report)
    if wanted.noisy:
        sources = data.pair(sources, wanted.train, wanted.noisy)
    noise: list[data.Source] = []
    if wanted.noise:
        noise, report = find(wanted.noise, minimum_samples=wanted.context_samples + wanted.crop_samples)
        _log.info("noise: %s", report)
    open_crops = partial(
        data.crops, data=wanted, sample_rate_hz=model.sample_rate_hz, channels=model.audio_channels, noise=noise
    )
    whole = open_crops(sources, seed=config.seed)
    share = open_crops(sources, seed=config.seed, shard=(jax.process_index(), jax.process_count()))
    if not wanted.validation:
        return Corpus(whole, share, None)
    sources, report = find(wanted.validation, minimum_samples=wanted.crop_samples)
    _log.info("validation data: %s", report)
    if wanted.noisy_validation:
        sources = data.pair(sources, wanted.validation, wanted.noisy_validation)
    return Corpus(whole, share, open_crops(sources, seed=VALIDATION_SEED))
