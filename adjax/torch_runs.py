"""Training that goes on in the other program: the released program's checkpoints to adjax runs and back."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adjax.config import Adversarial, ModelConfig, Optimizer, TrainConfig, Vocoder
from adjax.errors import AdjaxError
from adjax.models.discriminators import Discriminators
from adjax.nn.quantize import CODEBOOK, Codebooks
from adjax.strict_json import to_dict, to_json
from adjax.torch_port.config_yml import parse
from adjax.torch_port.convert import encoder_alone, export_checkpoint, import_pairing
from adjax.torch_port.training import NetworkState, TrainingState, export_training, import_training
from adjax.torch_port.training_check import check_exportable, trained_network
from adjax.torch_port.training_yml import NEVER, left_behind, read_training, train_mode, training_parameters
from adjax.torch_port.yaml_values import Values, load_yaml
from adjax.train.checkpoints import Checkpoints
from adjax.train.loop import read_run
from adjax.train.start import items, restored
from adjax.train.state import TrainState, from_variables, make_optimizers, variables

UNTRAINED = Adversarial(NEVER).discriminators  # of exported runs that have none; the released program has always some


class Imported(NamedTuple):
    """A run made of a released training checkpoint."""

    config: TrainConfig
    step: int
    left_behind: tuple[str, ...]  # keys of its config.yml that adjax does not follow, such as those of the data


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's: its configuration beside its checkpoints."""
    return (folder / "config.json").is_file() and (folder / "checkpoints").is_dir()


def import_run(checkpoint: Path, run_dir: Path, encoder: Path | None = None, name: str | None = None) -> Imported:
    """Makes RUN_DIR a run that goes on where a released training checkpoint stopped; `config.yml` lies beside it.

    A vocoder's checkpoint does not hold the frozen encoder and codebooks that it was trained on: they are those of the
    checkpoint `encoder`. The run has yet to be told its data.
    Raises AdjaxError for a folder that holds a run or a model already, for a damaged or hostile checkpoint, and for a
    `config.yml` with anything that adjax cannot follow.
    """
    if any((run_dir / place).exists() for place in ("config.json", "checkpoints")):
        raise AdjaxError(f"{run_dir}: holds a run or a model already; choose another folder")
    found = import_training(checkpoint, name)
    if found.steps > NEVER:
        raise AdjaxError(f"{checkpoint}: steps must be at most {NEVER}")
    model, generator = _whole_model(checkpoint, found, encoder)
    path = checkpoint.parent / "config.yml"
    values = Values(load_yaml(path))
    optimizers = (found.generator.optimizer, found.discriminator.optimizer)
    config = parse(
        path, values, lambda: read_training(values, found.train_mode, model, found.discriminators, optimizers)
    )
    try:
        state = _train_state(config, generator, found)
    except AdjaxError as error:
        raise AdjaxError(f"{checkpoint}: {error}") from None
    run_dir.mkdir(parents=True, exist_ok=True)
    with Checkpoints(run_dir / "checkpoints", config.keep_every) as checkpoints:
        meta = {"config": to_dict(config), "epochs": found.epochs}
        checkpoints.save(found.steps, *items(state), meta=meta, wait=True)
    (run_dir / "config.json").write_text(to_json(config))
    return Imported(config, found.steps, left_behind(values, found.train_mode))


def _whole_model(checkpoint: Path, found: TrainingState, encoder: Path | None) -> tuple[ModelConfig, dict[str, Any]]:
    """The model that is trained and the generator's variables, a vocoder's frozen encoder included."""
    source = f"PyTorch training checkpoint of {found.steps} steps"
    if isinstance(found.model, ModelConfig):
        if encoder is not None:
            raise AdjaxError(f"{checkpoint}: holds an encoder; only a vocoder takes another checkpoint's (--encoder)")
        return replace(found.model, source=source), found.generator.variables
    if encoder is None:
        raise AdjaxError(
            f"{checkpoint}: holds a vocoder without the frozen encoder and codebooks that it is trained on; name their "
            "checkpoint with --encoder"
        )
    model, generator = import_pairing(encoder, checkpoint, name=found.model.name)
    return replace(model, source=source), generator


def _train_state(config: TrainConfig, generator: dict[str, Any], found: TrainingState) -> TrainState:
    books, discriminators = Codebooks(**generator[CODEBOOK]["quantizer"]), found.discriminator.variables
    fresh = jax.eval_shape(lambda: from_variables(config, generator, discriminators, make_optimizers(config)))
    state = TrainState(
        generator["params"],
        books,
        generator.get("stats", {}),
        _advanced(fresh.optimizer, found.generator, "generator"),
        jnp.int32(found.steps),
        discriminators,
        _advanced(fresh.discriminators_optimizer, found.discriminator, "discriminator"),
    )
    return jax.tree.map(jnp.asarray, state)


def _advanced(chain: Any, network: NetworkState, name: str) -> Any:
    """The state of an optimizer that has made a PyTorch optimizer's updates, of the structure of its first."""
    expected = rate_after(network.optimizer, network.updates)
    if not math.isclose(network.learning_rate, expected, rel_tol=1e-6):
        raise AdjaxError(
            f"{name}: its learning rate is {network.learning_rate:g} after {network.updates} updates, but its schedule "
            f"comes to {expected:g}, which adjax would go on with"
        )
    links = []
    for link in chain:
        if isinstance(link, dict):  # Adam's, by part
            link = {part: adam._replace(**_moments(network, part, name)) for part, adam in link.items()}
        elif isinstance(link, optax.ScaleByScheduleState):
            link = link._replace(count=np.int32(network.updates))
        links.append(link)
    return tuple(links)


def _moments(network: NetworkState, part: str, name: str) -> dict[str, Any]:
    counts = sorted({int(count) for count in jax.tree.leaves(network.count[part])})
    if len(counts) > 1:
        raise AdjaxError(f"{name}: parameters of its {part} were updated {counts} times, but adjax counts them as one")
    return {"count": np.int32(counts[0]), "mu": network.mu[part], "nu": network.nu[part]}


def rate_after(optimizer: Optimizer, updates: int) -> float:
    """The learning rate that a constant schedule or one with milestones has come to, to the bit as PyTorch has it."""
    rate = optimizer.learning_rate
    for milestone, times in sorted(Counter(optimizer.milestones).items()) if optimizer.schedule == "steps" else ():
        if milestone <= updates:
            rate *= optimizer.gamma**times
    return rate


# ------------------------------------------------------------------------------------------------------------- writing


def export_run(run_dir: Path, out_dir: Path, step: int | None = None) -> list[Path]:
    """Writes a run's checkpoint (the latest by default) such that the released program can go on; returns the files.

    A vocoder's run becomes two folders, OUT_DIR/vocoder and OUT_DIR/autoencoder, the frozen encoder and codebooks.
    Raises AdjaxError that names everything of the run that the released program would not do.
    """
    config = read_run(run_dir)
    check_exportable(config, run_dir / "config.json")
    with Checkpoints(run_dir / "checkpoints", read_only=True) as checkpoints:
        step = checkpoints.latest_step() if step is None else step
        if step is None:
            raise AdjaxError(f"{run_dir}: has no complete checkpoint yet")
        if step not in (known := checkpoints.steps()):
            raise AdjaxError(f"{run_dir}: has no checkpoint of step {step}; it has {', '.join(map(str, known))}")
        state = jax.device_get(restored(config, checkpoints, step))
        epochs = checkpoints.meta(step).get("epochs", 0)
    generator = variables(state)
    exported = _training_state(config, state, generator, epochs)
    settings = training_parameters(config)
    if not isinstance(config.model.decoder, Vocoder):
        return [export_training(exported, out_dir, settings)]
    encoder, own = encoder_alone(config.model, generator)
    paths = [export_checkpoint(encoder, own, out_dir / "autoencoder", step)]
    return [*paths, export_training(exported, out_dir / "vocoder", settings)]


def _training_state(config: TrainConfig, state: TrainState, generator: dict[str, Any], epochs: int) -> TrainingState:
    if isinstance(config.model.decoder, Vocoder):
        generator = {"params": {"decoder": generator["params"]["decoder"]}}
        generator |= {"stats": state.stats} if state.stats else {}
    against = config.adversarial or Adversarial(NEVER, UNTRAINED)
    discriminators, chain = state.discriminators, state.discriminators_optimizer
    if discriminators is None:
        audio = jnp.zeros((1, config.data.crop_samples, 1))
        init = jax.jit(Discriminators(against.discriminators).init)
        discriminators, chain = jax.device_get(init(jax.random.key(config.seed), audio)), ()
    return TrainingState(
        trained_network(config.model),
        against.discriminators,
        _network(config.optimizer, generator, state.optimizer),
        _network(against.optimizer, discriminators, chain),
        int(state.step),
        epochs,
        train_mode(config),
    )


def _network(optimizer: Optimizer, tree: dict[str, Any], chain: Any) -> NetworkState:
    params = tree["params"]
    adam: Mapping[str, Any] = next((link for link in chain if isinstance(link, dict)), {})
    counts = {part: np.int32(adam[part].count if part in adam else 0) for part in params}
    updates = int(next((np.asarray(link.count) for link in chain if isinstance(link, optax.ScaleByScheduleState)), 0))

    def moments(name: str) -> dict[str, Any]:
        zeros = {part: jax.tree.map(np.zeros_like, params[part]) for part in params if part not in adam}
        return zeros | {part: getattr(adam[part], name) for part in adam}

    return NetworkState(
        tree,
        moments("mu"),
        moments("nu"),
        {part: jax.tree.map(lambda _, part=part: counts[part], params[part]) for part in params},
        optimizer,
        rate_after(optimizer, updates),
        updates,
    )
