"""The training loop: devices, checkpoints, logs and guards around the pure steps."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from adjax import dsp, losses, weights
from adjax.config import TrainConfig
from adjax.errors import AdjaxError
from adjax.models.codec import Codec
from adjax.nn.quantize import CODEBOOK, Codebooks
from adjax.strict_json import from_dict, to_dict, to_json
from adjax.train import data, parallel, statistics
from adjax.train.checkpoints import Checkpoints
from adjax.train.logs import Logs
from adjax.train.state import TrainState, fresh, from_variables, learning_rate, make_optimizer, variables
from adjax.train.steps import metric_step

COLLAPSED_SHARE = 0.1  # a codebook with fewer of its codes in use than this has collapsed
VALIDATION_SEED = 1_000_003
VALIDATION_BATCHES = 4

_log = logging.getLogger(__name__)


class Corpus(NamedTuple):
    """The audio of a run; datasets give batch k of the whole run, this host's share of it, or validation batch k."""

    whole: Any
    share: Any
    validation: Any | None


def train(config: TrainConfig, run_dir: Path, resume: bool = False) -> Path:
    """Train what the configuration describes; returns the folder of the trained model, `run_dir/model`.

    `run_dir` also holds the resolved configuration, checkpoints and logs. Raises AdjaxError if the folder holds a run
    already (unless `resume`), if no audio is usable, or if a loss is not finite (the last good checkpoint is kept).
    """
    if not resume and (run_dir / "checkpoints").is_dir() and any((run_dir / "checkpoints").iterdir()):
        raise AdjaxError(f"{run_dir}: holds a run already; continue it with --resume, or choose another --run-dir")
    corpus = _open_corpus(config)
    primary = jax.process_index() == 0
    run_dir.mkdir(parents=True, exist_ok=True)
    if primary:
        (run_dir / "config.json").write_text(to_json(config))
    optimizer = make_optimizer(config.optimizer, config.steps)
    make = partial(metric_step, config, optimizer)
    quantized = parallel.backend(lambda axis: make(axis), config.parallel)
    unquantized = parallel.backend(lambda axis: make(axis, quantized=False), config.parallel)
    kmeans_step = config.model.quantizer.kmeans_start_step
    with Logs(run_dir, primary=primary) as logs, Checkpoints(run_dir / "checkpoints", config.keep_every) as checkpoints:
        state = _start(config, optimizer, corpus, checkpoints if resume else None)
        first = int(state.step)
        logs.truncate_after(first)
        monitor = _Monitor(config, logs, checkpoints)
        state = quantized.put_state(state)
        step = first
        try:
            with _closing(data.batches(corpus.share, first)) as batches:
                for step in logs.progress(range(first, config.steps), first, config.steps):
                    backend = unquantized if step < kmeans_step else quantized
                    if kmeans_step and step == kmeans_step:
                        one = backend.get(state)
                        books = statistics.kmeans_codebooks(config, one, data.batches(corpus.whole))
                        state = backend.put_state(one._replace(codebooks=books))
                    state, metrics = backend.step(state, backend.put_batch(next(batches)))
                    monitor.after(step + 1, partial(backend.get, metrics))
                    if (step + 1) % config.evaluate_every == 0 and corpus.validation is not None:
                        _evaluate(config, backend.get(state), corpus.validation, step + 1, logs)
                    if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                        monitor.flush()
                        _save(config, backend.get(state), checkpoints)
        except KeyboardInterrupt:
            monitor.flush()
            if int(quantized.get(state).step) > (checkpoints.latest_step() or 0):
                _save(config, quantized.get(state), checkpoints)
            raise
    return export(run_dir, run_dir / "model") if primary else run_dir / "model"


def export(run_dir: Path, folder: Path, step: int | None = None, compact: bool = False) -> Path:
    """Write the model folder of a run's checkpoint (the latest by default).

    `compact` leaves out the codebooks' statistics, which only training needs, and stores float16.
    """
    config = read_run(run_dir)
    with Checkpoints(run_dir / "checkpoints", read_only=True) as checkpoints:
        step = checkpoints.latest_step() if step is None else step
        if step is None:
            raise AdjaxError(f"{run_dir}: has no complete checkpoint yet")
        generator = checkpoints.restore_generator(step, _abstract(config)[0])
    if not compact:
        return weights.save_model(folder, config.model, generator)
    generator[CODEBOOK] = {"quantizer": {"embed": generator[CODEBOOK]["quantizer"]["embed"]}}
    return weights.save_model(folder, config.model, generator, np.float16)


def read_run(run_dir: Path) -> TrainConfig:
    """The resolved configuration beside a run's checkpoints."""
    import json

    try:
        return from_dict(TrainConfig, json.loads((run_dir / "config.json").read_text()))
    except (OSError, ValueError) as error:
        raise AdjaxError(f"{run_dir / 'config.json'}: not the configuration of a run: {error}") from None


def _open_corpus(config: TrainConfig) -> Corpus:
    model = config.model
    find = partial(data.scan, sample_rate_hz=model.sample_rate_hz, channels=model.audio_channels)
    sources, report = find(config.data.train, minimum_samples=config.data.crop_samples)
    _log.info("training data: %s", report)
    open_crops = partial(data.crops, sample_rate_hz=model.sample_rate_hz, channels=model.audio_channels)
    whole = open_crops(sources, config.data, seed=config.seed)
    host = (jax.process_index(), jax.process_count())
    share = open_crops(sources, config.data, seed=config.seed, shard=host)
    if not config.data.validation:
        return Corpus(whole, share, None)
    sources, report = find(config.data.validation, minimum_samples=config.data.crop_samples)
    _log.info("validation data: %s", report)
    return Corpus(whole, share, open_crops(sources, config.data, seed=VALIDATION_SEED))


def _start(config: TrainConfig, optimizer: Any, corpus: Corpus, checkpoints: Checkpoints | None) -> TrainState:
    """The state to go on from: the latest checkpoint, another model's weights, or fresh ones."""
    latest = checkpoints.latest_step() if checkpoints else None
    if checkpoints and latest is not None:
        _check_same_run(config, checkpoints.meta(latest))
        generator, training = checkpoints.restore(latest, *_abstract(config))
        books = Codebooks(**generator[CODEBOOK]["quantizer"])
        return TrainState(
            generator["params"], books, generator.get("stats", {}), training["optimizer"], training["step"]
        )
    if config.init_from:
        folder = weights.find_model(config.init_from)
        _, tree = weights.load_model(folder)
        weights.check_fit(folder, weights.flatten(tree), config.model)
        return from_variables(jax.tree.map(jax.numpy.asarray, tree), optimizer)
    state = fresh(config.model, optimizer, config.seed)
    return state._replace(stats=statistics.whitening(config, data.batches(corpus.whole)))


def _check_same_run(config: TrainConfig, meta: dict[str, Any]) -> None:
    """Steps and intervals may change on resuming; what the arrays and their meaning depend on may not."""
    saved, wanted = meta["config"]["model"], to_dict(config)["model"]
    changed = [key for key in wanted if saved.get(key) != wanted[key]]
    if changed:
        raise AdjaxError(f"--resume: the run was started with another model.{changed[0]}: {saved.get(changed[0])}")


def _abstract(config: TrainConfig) -> tuple[Any, Any]:
    """Shapes of the two checkpoint items of a run."""
    state = jax.eval_shape(lambda: fresh(config.model, make_optimizer(config.optimizer, config.steps), 0))
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), _items(state))


def _items(state: TrainState) -> tuple[Any, Any]:
    return variables(state), {"optimizer": state.optimizer, "step": state.step}


def _save(config: TrainConfig, state: TrainState, checkpoints: Checkpoints) -> None:
    checkpoints.save(int(state.step), *_items(state), meta={"config": to_dict(config)})


def _evaluate(config: TrainConfig, state: TrainState, validation: Any, step: int, logs: Logs) -> None:
    """Validation losses, and the first crop as audio and spectrograms."""
    model, rate = config.model, config.model.sample_rate_hz
    start, delay = config.data.context_samples, model.delay_samples
    sums: dict[str, float] = {}
    for k in range(VALIDATION_BATCHES):
        audio = validation[k]
        decoded = _decode_again(model, variables(state), audio)
        natural = dsp.fold_channels(audio[:, start : audio.shape[1] - delay])
        decoded = dsp.fold_channels(decoded[:, start + delay :])
        for name, value in losses.metric_losses(decoded, natural, config.losses, rate).items():
            sums[f"validation/{name}"] = sums.get(f"validation/{name}", 0.0) + float(value) / VALIDATION_BATCHES
        if k == 0:
            for tag, signal in (("natural", natural[0]), ("decoded", decoded[0])):
                logs.audio(step, tag, np.asarray(signal), rate)
                logs.spectrogram(step, f"{tag}_spectrogram", np.asarray(signal))
    logs.scalars(step, sums)


@partial(jax.jit, static_argnums=0)
def _decode_again(model: Any, tree: Any, audio: jax.Array) -> jax.Array:
    codec = Codec(model)
    return cast(jax.Array, codec.apply(tree, codec.apply(tree, audio, method="encode"), method="decode"))


class _Monitor:
    """Reads a step's metrics once the next is under way; logs their means and stops on what is not finite."""

    def __init__(self, config: TrainConfig, logs: Logs, checkpoints: Checkpoints) -> None:
        self._config, self._logs, self._checkpoints = config, logs, checkpoints
        self._rate = learning_rate(config.optimizer, config.steps)
        self._pending: tuple[int, Any] | None = None
        self._sums: dict[str, float] = {}
        self._count, self._since = 0, time.perf_counter()
        self._warned: set[str] = set()

    def after(self, step: int, metrics: Any) -> None:
        self.flush()
        self._pending = (step, metrics)

    def flush(self) -> None:
        """Take the pending metrics in; raises AdjaxError if a loss or gradient is not finite."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        values = {name: float(value) for name, value in metrics().items()}
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            self._logs.scalars(step, values)
            kept = self._checkpoints.latest_step()
            where = "no checkpoint was written yet" if kept is None else f"the checkpoint of step {kept} is kept"
            raise AdjaxError(f"training stopped: {bad[0]} is {values[bad[0]]} at step {step}; {where}")
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        if step % self._config.log_every == 0:
            self._write(step)

    def _write(self, step: int) -> None:
        now = time.perf_counter()
        means = {f"train/{name}": value / self._count for name, value in self._sums.items()}
        means["learning_rate"] = float(cast(jax.Array, self._rate(step - 1)))
        means["steps_per_second"] = self._count / (now - self._since)
        self._logs.scalars(step, means)
        self._sums, self._count, self._since = {}, 0, now
        size = self._config.model.quantizer.codebook_size
        for name, used in means.items():
            if name.startswith("train/codes_used_") and used < COLLAPSED_SHARE * size and name not in self._warned:
                self._warned.add(name)
                stage = name.rpartition("_")[2]
                _log.warning("codebook %s is collapsing: %.0f of %d codes in use at step %d", stage, used, size, step)


class _closing:
    """Ends the reading threads of an iterator."""

    def __init__(self, iterator: Iterator[np.ndarray]) -> None:
        self._iterator = iterator

    def __enter__(self) -> Iterator[np.ndarray]:
        return self._iterator

    def __exit__(self, *_: object) -> None:
        if hasattr(self._iterator, "close"):
            self._iterator.close()  # type: ignore[attr-defined]
