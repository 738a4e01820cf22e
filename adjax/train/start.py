"""Where a run starts: from its own checkpoint, from another model's weights, or afresh."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from adjax import weights
from adjax.config import PARTS, ModelConfig, SpectralDecoder, SpectralEncoder, TrainConfig, Vocoder
from adjax.errors import AdjaxError
from adjax.latent_statistics import read_latent_statistics
from adjax.nn.quantize import CODEBOOK, Codebooks
from adjax.strict_json import to_dict
from adjax.train import statistics
from adjax.train.checkpoints import Checkpoints
from adjax.train.data import Batch
from adjax.train.state import (
    Optimizers,
    TrainState,
    Tree,
    fresh,
    from_variables,
    make_optimizers,
    parts_ever_trained,
    variables,
)
from adjax.train.steps import kmeans_step

_log = logging.getLogger(__name__)


def items(state: TrainState) -> tuple[Tree, Tree]:
    """The two items of a run's checkpoint: the generator's variables, and what else the run needs to go on."""
    training = {"optimizer": state.optimizer, "step": state.step}
    if state.discriminators is not None:
        training |= {
            "discriminators": state.discriminators,
            "discriminators_optimizer": state.discriminators_optimizer,
        }
    return variables(state), training


def abstract_items(config: TrainConfig) -> tuple[Tree, Tree]:
    """Shapes of the two checkpoint items of a run, on this process's first device."""
    state = jax.eval_shape(lambda: fresh(config, make_optimizers(config)))
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), items(state))


def restored(config: TrainConfig, checkpoints: Checkpoints, step: int) -> TrainState:
    """The state of a checkpoint; AdjaxError if it is damaged or of a run with other networks."""
    _check_same_run(config, checkpoints.meta(step)["config"])
    generator, training = checkpoints.restore(step, *abstract_items(config))
    return TrainState(
        params=generator["params"],
        codebooks=Codebooks(**generator[CODEBOOK]["quantizer"]),
        stats=generator.get("stats", {}),
        optimizer=training["optimizer"],
        step=training["step"],
        discriminators=training.get("discriminators"),
        discriminators_optimizer=training.get("discriminators_optimizer"),
    )


def started(config: TrainConfig, optimizers: Optimizers, batches: Callable[[], Iterator[Batch]]) -> TrainState:
    """The state before a run's first step; `batches()` gives its training batches.

    Parts of the generator that are configured as in `config.init_from` start from its weights, all else afresh.
    Raises AdjaxError if no part fits, if a part that is never trained would start afresh, and if a vocoder lacks the
    statistics of its latents.
    """
    taken, other = _taken_parts(config)
    untrained = [p for p in PARTS if p not in (*config.trained, *parts_ever_trained(config), *taken)]
    if config.adversarial and "quantizer" in config.adversarial.trained:
        untrained = [p for p in untrained if p != "quantizer"]
    if untrained:
        raise AdjaxError(
            f"{config.model.name}: this run never trains its {' and '.join(untrained)}, so init_from must name a model "
            f"folder that has {'it' if len(untrained) == 1 else 'them'} configured alike"
            + (f"; {config.init_from} has not" if config.init_from else "")
        )
    stats = _stats(config, taken, other, batches)
    state = fresh(config, optimizers)
    if taken:
        own = variables(state)
        tree = {
            "params": {p: other["params"][p] if p in taken else layers for p, layers in own["params"].items()},
            CODEBOOK: _codebooks(config, other) if "quantizer" in taken else own[CODEBOOK],
        }
        state = from_variables(config, tree, state.discriminators, optimizers)
    return jax.tree.map(jax.numpy.asarray, state._replace(stats=stats))


def _taken_parts(config: TrainConfig) -> tuple[list[str], Tree]:
    """The parts that start from another model's weights, and that model's variables."""
    if not config.init_from:
        return [], {}
    folder = weights.find_model(config.init_from)
    model, tree = weights.load_model(folder)
    taken = _equal_parts(config.model, model)
    if not taken:
        raise AdjaxError(f"init_from: {folder}: none of its parts ({', '.join(PARTS)}) is configured as this run's are")
    others = [part for part in PARTS if part not in taken]
    rest = f"; {' and '.join(others)} differ there and start afresh" if others else ""
    _log.info("%s: weights of %s%s", folder, ", ".join(taken), rest)
    if "quantizer" in taken and kmeans_step(config):
        _log.warning(
            "%s: its codebooks give way to new ones, by k-means before step %d; "
            "--set model.quantizer.kmeans_start_step=0 keeps them",
            folder,
            kmeans_step(config),
        )
    return taken, tree


def _equal_parts(model: ModelConfig, other: ModelConfig) -> list[str]:
    """Parts whose weights mean the same in both models; a quantizer's training options do not matter."""
    encoder = model.encoder == other.encoder
    q, p = model.quantizer, other.quantizer
    coding = ("codebooks", "codebook_size", "predicted", "prediction")
    dim = q.dim == p.dim
    fits = {
        "encoder": encoder,
        "projector": encoder and dim and model.projector_bias == other.projector_bias,
        "quantizer": dim and all(getattr(q, name) == getattr(p, name) for name in coding),
        "decoder": dim and model.decoder == other.decoder,
    }
    return [part for part in PARTS if fits[part]]


def _codebooks(config: TrainConfig, other: Tree) -> Tree:
    """Another model's codebooks; where they come without statistics, those of codes chosen equally often."""
    books = other[CODEBOOK]["quantizer"]
    if "embed_avg" not in books:
        frames = config.data.batch_size * config.data.crop_samples // config.model.hop_samples
        books = Codebooks.settled(books["embed"], frames / config.model.quantizer.codebook_size)._asdict()
    return {"quantizer": books}


def _stats(config: TrainConfig, taken: list[str], other: Tree, batches: Callable[[], Iterator[Batch]]) -> Tree:
    """The model's constants: from a file, the other model, or the training set."""
    model = config.model
    stats = {part: tree for part, tree in other.get("stats", {}).items() if part in taken}
    takes_file = isinstance(model.decoder, Vocoder) and model.decoder.statistics
    if takes_file and config.statistics:
        stats["decoder"] = read_latent_statistics(Path(config.statistics), model.quantizer.dim)
    elif takes_file and "decoder" not in taken:
        raise AdjaxError(
            f"{model.name}: its vocoder needs the statistics of its latents; make their file with `adjax statistics "
            "MODEL PATHS --output stats.npy` and name it with --set statistics=stats.npy"
        )
    elif config.statistics and not takes_file:
        raise AdjaxError(f"statistics: {config.statistics}: the decoder of {model.name} takes no statistics of latents")
    parts = {
        "encoder": isinstance(model.encoder, SpectralEncoder),
        "decoder": isinstance(model.decoder, SpectralDecoder),
    }
    missing = [part for part, spectral in parts.items() if spectral and part not in stats]
    if missing:
        sigma = statistics.whitening(config, batches())
        stats |= {part: {"sigma": sigma} for part in missing}
    return stats


def _check_same_run(config: TrainConfig, saved: dict[str, Any]) -> None:
    """Steps and intervals may change on resuming; what the arrays and their meaning depend on may not."""
    wanted = to_dict(config)
    for key in wanted["model"]:
        if saved["model"].get(key) != wanted["model"][key]:
            raise AdjaxError(f"--resume: the run was started with another model.{key}: {saved['model'].get(key)}")
    before, now = ((d.get("adversarial") or {}).get("discriminators") for d in (saved, wanted))
    if before != now:
        raise AdjaxError(f"--resume: the run was started with other adversarial.discriminators: {before}")
    before, now = (_ever_trained(d) for d in (saved, wanted))
    if before != now:
        names = ", ".join(sorted(before))
        raise AdjaxError(f"--resume: the run was started to train {names}: trained and adversarial.trained must say so")


def _ever_trained(config: dict[str, Any]) -> set[str]:
    return {*config.get("trained", PARTS), *(config.get("adversarial") or {}).get("trained", ())} - {"quantizer"}
