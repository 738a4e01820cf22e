"""The audio of a run: its training and validation crops, clean or with noise, from what a configuration names."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax

from adjax.config import Augmentation, TrainConfig
from adjax.train import data

VALIDATION_SEED = 1_000_003

_log = logging.getLogger(__name__)


class Corpus(NamedTuple):
    """Datasets that give batch k of the whole run, this host's share of it, and validation batch k."""

    whole: Any
    share: Any
    validation: Any | None


def open_corpus(config: TrainConfig) -> Corpus:
    """The corpus of a run; AdjaxError if no audio is usable, or a noisy version is missing.

    Validation crops are not augmented: they are to tell how the model does on real microphones.
    """
    model, wanted = config.model, config.data
    rate, channels = model.sample_rate_hz, model.audio_channels

    def found(what: str, paths: tuple[str, ...], minimum_samples: int, speed: float = 1.0) -> list[data.Source]:
        if not paths and what != "training data":
            return []
        sources, report = data.scan(paths, rate, channels, minimum_samples, speed)
        _log.info("%s: %s", what, report)
        return sources

    def held(sources: list[data.Source]) -> list[data.Source]:
        if not (wanted.in_memory and sources):
            return sources
        sources = data.hold(sources)
        _log.info("%.0f MB of audio held in memory", sum(s.held_bytes for s in sources) / 1e6)
        return sources

    sources = found("training data", wanted.train, wanted.crop_samples, max(wanted.augmentation.speeds))
    if wanted.noisy:
        sources = data.pair(sources, wanted.train, wanted.noisy)
    drawn = data.drawn_samples(wanted, rate)
    sources = held(sources)
    noise = held(found("noise", wanted.noise, drawn))
    background = held(found("background noise", wanted.augmentation.noise, drawn))
    open_crops = partial(data.crops, data=wanted, sample_rate_hz=rate, channels=channels, noise=noise)
    open_train = partial(open_crops, sources, seed=config.seed, background=background)
    whole, share = open_train(), open_train(shard=(jax.process_index(), jax.process_count()))
    sources = found("validation data", wanted.validation, wanted.crop_samples)
    if not sources:
        return Corpus(whole, share, None)
    if wanted.noisy_validation:
        sources = data.pair(sources, wanted.validation, wanted.noisy_validation)
    natural = replace(wanted, augmentation=Augmentation())
    return Corpus(whole, share, open_crops(sources, data=natural, seed=VALIDATION_SEED))
