"""The training loop: devices, hosts, checkpoints, logs and guards around the pure steps."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from adjax import dsp, losses, metrics, weights
from adjax.config import TrainConfig
from adjax.errors import AdjaxError
from adjax.models.codec import Codec
from adjax.nn.quantize import CODEBOOK
from adjax.strict_json import from_dict, to_dict, to_json
from adjax.train import data, parallel, statistics
from adjax.train.checkpoints import Checkpoints
from adjax.train.corpus import open_corpus
from adjax.train.guards import Monitor
from adjax.train.logs import Logs
from adjax.train.start import abstract_items, items, restored, started
from adjax.train.state import TrainState, make_optimizers, variables
from adjax.train.steps import Phase, kmeans_step, make_step, phase

VALIDATION_BATCHES = 4


def train(
    config: TrainConfig, run_dir: Path, resume: bool = False, stop: Callable[[], bool] = lambda: False
) -> tuple[Path, int]:
    """Train what the configuration describes; returns the folder of the trained model, `run_dir/model`, and its steps.

    `stop` is asked after each step whether to save and end here; of several hosts, each is asked every `log_every`
    steps, and one suffices.

    `run_dir` also holds the resolved configuration, checkpoints and logs. Raises AdjaxError if the folder holds a run
    already (unless `resume`), if no audio is usable, or if a loss is not finite (the last good checkpoint is kept).
    Every process of a run on several hosts calls this with the same arguments; `run_dir` is a folder that all share.
    """
    parallel.check_devices(config.parallel, config.data.batch_size, config.accumulate)
    if not resume and (run_dir / "checkpoints").is_dir() and any((run_dir / "checkpoints").iterdir()):
        raise AdjaxError(f"{run_dir}: holds a run already; continue it with --resume, or choose another --run-dir")
    corpus = open_corpus(config)
    primary = jax.process_index() == 0
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("adjax: every host has looked into the run's folder")
    run_dir.mkdir(parents=True, exist_ok=True)
    optimizers = make_optimizers(config)

    @functools.cache  # so that each phase is compiled once, when a run comes to it
    def backend(phase: Phase) -> parallel.Backend:
        return parallel.backend(lambda axis: make_step(config, optimizers, axis, phase), config.parallel)

    with Logs(run_dir, primary=primary) as logs, Checkpoints(run_dir / "checkpoints", config.keep_every) as checkpoints:
        latest = checkpoints.latest_step() if resume else None
        if latest is None:
            state = started(config, optimizers, lambda: data.batches(corpus.whole))
        else:
            state = restored(config, checkpoints, latest)
        if primary:
            (run_dir / "config.json").write_text(to_json(config))
        first = int(state.step)
        logs.truncate_after(first)
        monitor = Monitor(config, logs, checkpoints)
        on = backend(phase(config, first))
        state = on.put_state(state)
        try:
            with _closing(data.batches(corpus.share, first)) as batches:
                for step in logs.progress(range(first, config.steps), first, config.steps):
                    on = backend(phase(config, step))
                    if step and step == kmeans_step(config):
                        one = on.get(state)
                        books = statistics.kmeans_codebooks(config, one, data.batches(corpus.whole))
                        state = on.put_state(one._replace(codebooks=books))
                    state, measured = on.step(state, on.put_batch(next(batches)))
                    monitor.after(step + 1, partial(on.get, measured))
                    if primary and (step + 1) % config.evaluate_every == 0 and corpus.validation is not None:
                        _evaluate(config, on.get(state), corpus.validation, step + 1, logs)
                    ends = step + 1 == config.steps or _agreed(stop, step + 1, config.log_every)
                    if (step + 1) % config.save_every == 0 or ends:
                        monitor.flush()
                        _save(config, on.get(state), checkpoints)
                    if ends:
                        break
        except KeyboardInterrupt:
            monitor.flush()
            alone = jax.process_count() == 1  # else the others may be at another step, and do not save
            if alone and int(on.get(state).step) > (checkpoints.latest_step() or 0):
                _save(config, on.get(state), checkpoints)
            raise
        trained = checkpoints.latest_step() or 0
    return export(run_dir, run_dir / "model"), trained


def _agreed(stop: Callable[[], bool], step: int, every: int) -> bool:
    """Whether to stop, the same on every host: one that stopped alone would leave the others waiting."""
    if jax.process_count() == 1:
        return stop()
    return step % every == 0 and bool(multihost_utils.process_allgather(np.array(stop())).any())


def export(run_dir: Path, folder: Path, step: int | None = None, storage: str | None = None, average: int = 1) -> Path:
    """Write the model folder of a run's checkpoint (the latest by default); every process of a run makes the same call.

    `storage`, one of `adjax.storage.STORAGES`, leaves out the codebooks' statistics, which only training needs. With
    `average`, parameters are means over so many checkpoints, that one and the last before it that the run has kept
    (Izmailov et al., 2018); codebooks, which are means already, are that one's. Raises AdjaxError if there are fewer.
    """
    config = read_run(run_dir)
    with Checkpoints(run_dir / "checkpoints", read_only=True) as checkpoints:
        kept = checkpoints.steps()
        if step is not None:
            kept = [*(s for s in kept if s < step), step]
        if not kept:
            raise AdjaxError(f"{run_dir}: has no complete checkpoint yet")
        if len(kept) < average:
            raise AdjaxError(
                f"{run_dir}: has no {average} checkpoints to average but {len(kept)}, of steps "
                f"{', '.join(map(str, kept))}: average fewer, or train with less save_every and keep_every"
            )
        like, total = abstract_items(config)[0], None
        for each in kept[-average:]:
            generator = checkpoints.restore_generator(each, like)
            total = generator["params"] if total is None else jax.tree.map(jax.numpy.add, total, generator["params"])
        generator["params"] = jax.tree.map(lambda x: x / average, total)
    if jax.process_index():
        return folder
    if storage is None:
        return weights.save_model(folder, config.model, generator)
    generator[CODEBOOK] = {"quantizer": {"embed": generator[CODEBOOK]["quantizer"]["embed"]}}
    return weights.save_model(folder, config.model, generator, storage)


def read_run(run_dir: Path) -> TrainConfig:
    """The resolved configuration beside a run's checkpoints."""
    import json

    try:
        return from_dict(TrainConfig, json.loads((run_dir / "config.json").read_text()))
    except (OSError, ValueError) as error:
        raise AdjaxError(f"{run_dir / 'config.json'}: not the configuration of a run: {error}") from None


def _save(config: TrainConfig, state: TrainState, checkpoints: Checkpoints) -> None:
    checkpoints.save(int(state.step), *items(state), meta={"config": to_dict(config)})


def _evaluate(config: TrainConfig, state: TrainState, validation: Any, step: int, logs: Logs) -> None:
    """Validation losses, objective metrics, and the first crop as audio and spectrograms."""
    model, rate = config.model, config.model.sample_rate_hz
    start, delay = config.data.context_samples, model.delay_samples
    values: dict[str, list[float]] = {}
    for k in range(VALIDATION_BATCHES):
        batch = validation[k]
        clean = batch[1] if isinstance(batch, tuple) else batch
        decoded = _decode_again(model, variables(state), data.heard(batch))
        natural = dsp.fold_channels(clean[:, start : clean.shape[1] - delay])
        decoded = dsp.fold_channels(decoded[:, start + delay :])
        for name, value in losses.metric_losses(decoded, natural, config.losses, rate).items():
            values.setdefault(name, []).append(float(value))
        natural, decoded = np.asarray(natural), np.asarray(decoded)
        for pair in zip(natural, decoded, strict=True):
            for name, value in metrics.quality(*pair, rate).items():
                if math.isfinite(value):  # SI-SDR of silence is not
                    values.setdefault(name, []).append(value)
        if k == 0:
            for tag, signal in (("natural", natural[0]), ("decoded", decoded[0])):
                logs.audio(step, tag, signal, rate)
                logs.spectrogram(step, f"{tag}_spectrogram", signal)
    logs.scalars(step, {f"validation/{name}": sum(found) / len(found) for name, found in values.items()})


@partial(jax.jit, static_argnums=0)
def _decode_again(model: Any, tree: Any, audio: jax.Array) -> jax.Array:
    codec = Codec(model)
    return cast(jax.Array, codec.apply(tree, codec.apply(tree, audio, method="encode"), method="decode"))


class _closing:
    """Ends the reading threads of an iterator."""

    def __init__(self, iterator: Iterator[data.Batch]) -> None:
        self._iterator = iterator

    def __enter__(self) -> Iterator[data.Batch]:
        return self._iterator

    def __exit__(self, *_: object) -> None:
        if hasattr(self._iterator, "close"):
            self._iterator.close()  # type: ignore[attr-defined]
