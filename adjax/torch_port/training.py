"""Training checkpoints of the released program: both networks with their optimizers, read and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adjax.config import Discriminators, ModelConfig, Optimizer
from adjax.errors import AdjaxError
from adjax.torch_port.config_yml import VocoderModel, config_text, parse, parse_generator
from adjax.torch_port.convert import generator_rows, networks_of, write_folder
from adjax.torch_port.discriminator_yml import read_discriminators
from adjax.torch_port.discriminators import discriminator_rows
from adjax.torch_port.layout import Row, from_torch, insert, parameter_rows, to_torch, torch_shapes
from adjax.torch_port.optimizer import optimizer_parameters, read_optimizer, read_states, states
from adjax.torch_port.reader import read_checkpoint
from adjax.torch_port.yaml_values import Values, load_yaml

_NETWORKS = ("generator", "discriminator")
_MOMENTS = {"mu": "exp_avg", "nu": "exp_avg_sq"}
_MAX_COUNT = 1 << 24  # PyTorch counts updates in float32


class NetworkState(NamedTuple):
    """A network in training. `mu`, `nu` and `count` are trees like `variables["params"]`: Adam's moments, and int32
    numbers of updates; a parameter that was never updated, such as one of a frozen encoder, has zeros in all three.
    """

    variables: dict[str, Any]
    mu: dict[str, Any]
    nu: dict[str, Any]
    count: dict[str, Any]
    optimizer: Optimizer
    learning_rate: float  # now: what the schedule has come to
    updates: int  # that the schedule has counted: all of the network's, whichever parameters they changed


class TrainingState(NamedTuple):
    """A training run of the released program between two steps."""

    model: ModelConfig | VocoderModel
    discriminators: Discriminators
    generator: NetworkState
    discriminator: NetworkState
    steps: int
    epochs: int = 0
    train_mode: str = "autoencoder"  # the released program's name of the procedure: vocoder, denoise


def import_training(checkpoint: Path, name: str | None = None) -> TrainingState:
    """The whole of a released training checkpoint; its `config.yml` lies beside it.

    The optimizers' settings are those in the checkpoint. Where it has none, as before the first step, they are those of
    the `config.yml`, with nothing counted; the clipping of gradients always is.
    Raises AdjaxError for a damaged or hostile file and for one that does not fit its configuration.
    """
    checkpoint = Path(checkpoint)
    path = checkpoint.parent / "config.yml"
    document = load_yaml(path)
    model = parse_generator(document, path, name or checkpoint.resolve().parent.name)
    values = Values(document)
    if "discriminator_params" not in document:
        raise AdjaxError(f"{path}: has no discriminator_params, so it tells nothing of a training run")
    discriminators = parse(path, values, lambda: read_discriminators(values.within("discriminator_params")))
    modes = ("vocoder",) if isinstance(model, VocoderModel) else ("autoencoder", "denoise")
    train_mode = parse(path, values, lambda: values.choice("train_mode", *modes))
    optimizers = parse(path, values, lambda: [read_optimizer(values, network) for network in _NETWORKS])
    tree = read_checkpoint(checkpoint)
    networks, steps = networks_of(tree, checkpoint)
    epochs = tree.get("epochs", 0)
    if not isinstance(epochs, int) or not 0 <= epochs < 1 << 63:
        raise AdjaxError(f"{checkpoint}: epochs must be a whole number from 0")
    rows = (generator_rows(model), discriminator_rows(discriminators))
    found: dict[str, NetworkState] = {}
    for network, network_rows, optimizer in zip(_NETWORKS, rows, optimizers, strict=True):
        adam, schedule = _entry(tree, "optimizer", network), _entry(tree, "scheduler", network)
        try:
            found[network] = _import_network(network_rows, networks.get(network), adam, schedule, optimizer)
        except AdjaxError as error:
            raise AdjaxError(f"{checkpoint}: {network}: {error}") from None
    return TrainingState(model, discriminators, **found, steps=steps, epochs=epochs, train_mode=train_mode)


def export_training(state: TrainingState, out_dir: Path, settings: Mapping[str, Any] | None = None) -> Path:
    """Writes OUT_DIR/checkpoint-<steps>steps.pkl, that the released program can go on from, and its `config.yml`.

    The latter has the networks, optimizers and schedules; losses, data and intervals, which a checkpoint does not
    depend on, are those of `settings`. A vocoder's folder holds stats.npy too. Returns the checkpoint's path.
    Raises AdjaxError for what the released program cannot hold and where nothing can be written.
    """
    entries: dict[str, Any] = {"train_mode": state.train_mode, **(settings or {})}
    tree: dict[str, Any] = {"optimizer": {}, "scheduler": {}, "steps": state.steps, "epochs": state.epochs, "model": {}}
    rows = (generator_rows(state.model), discriminator_rows(state.discriminators))
    for network, network_rows in zip(_NETWORKS, rows, strict=True):
        part: NetworkState = getattr(state, network)
        entries |= optimizer_parameters(part.optimizer, network)
        tree["model"][network] = to_torch(network_rows, part.variables)
        numbered = _number(network_rows, part)
        group, schedule = states(part.optimizer, len(_keys(network_rows)), part.learning_rate, part.updates)
        tree["optimizer"][network] = {"state": numbered, "param_groups": [group]}
        tree["scheduler"][network] = schedule
    return write_folder(Path(out_dir), config_text(state.model, state.discriminators, entries), tree)


def _entry(tree: Mapping[str, Any], kind: str, network: str) -> Any:
    entries = tree.get(kind, {})
    return entries.get(network) if isinstance(entries, dict) else None


def _keys(rows: Sequence[Row]) -> list[str]:
    """The parameters' keys in the order in which PyTorch's optimizers number them."""
    return list(torch_shapes(parameter_rows(rows)))


def _import_network(rows: Sequence[Row], state: Any, adam: Any, schedule: Any, optimizer: Optimizer) -> NetworkState:
    if not isinstance(state, dict):
        raise AdjaxError("the checkpoint does not hold this network")
    variables = from_torch(rows, state)
    learning_rate, updates, numbered = optimizer.learning_rate, 0, {}
    if adam is not None or schedule is not None:
        numbered, group = _parse_optimizer(adam, len(_keys(rows)))
        optimizer, learning_rate, updates = read_states(group, schedule, optimizer.clip_norm)
    mu, nu, count = _unnumber(rows, numbered)
    return NetworkState(variables, mu, nu, count, optimizer, learning_rate, updates)


def _parse_optimizer(adam: Any, parameters: int) -> tuple[dict[int, Any], Any]:
    """The numbered states and the only parameter group of an optimizer's state."""
    groups = adam.get("param_groups") if isinstance(adam, dict) else None
    numbered = adam.get("state") if isinstance(adam, dict) else None
    if not isinstance(groups, list) or len(groups) != 1 or not isinstance(groups[0], dict):
        raise AdjaxError("its optimizer must have a single parameter group")
    if groups[0].get("params") != list(range(parameters)):
        raise AdjaxError(f"its optimizer must number this network's {parameters} parameters")
    if not isinstance(numbered, dict) or any(type(i) is not int or not 0 <= i < parameters for i in numbered):
        raise AdjaxError(f"its optimizer's states must be numbered from 0, under {parameters}")
    return numbered, groups[0]


def _unnumber(rows: Sequence[Row], numbered: Mapping[int, Any]) -> tuple[dict[str, Any], ...]:
    """Trees of the two moments and of the counts, of the states by parameter number."""
    rows = parameter_rows(rows)
    keys = _keys(rows)
    counts: dict[str, int] = {}
    moments: dict[str, dict[str, Any]] = {name: {} for name in _MOMENTS}
    for i, key in enumerate(keys):
        entry = numbered.get(i)
        if entry is None:
            continue
        if not isinstance(entry, dict) or not set(entry) == {"step", *_MOMENTS.values()}:
            raise AdjaxError(f"the optimizer's state {i} must hold step, exp_avg and exp_avg_sq, as Adam's does")
        counts[key] = _count(entry["step"], i)
        for name, theirs in _MOMENTS.items():
            moments[name][key] = entry[theirs]
    trees = []
    for name, theirs in _MOMENTS.items():
        try:
            tree = from_torch(rows, _with_zeros(rows, moments[name]))
        except AdjaxError as error:
            raise AdjaxError(f"the optimizer's {theirs}: {error}") from None
        trees.append(tree["params"])
    count: dict[str, Any] = {}
    for row in rows:
        assert row.path is not None
        insert(count, row.path[1:], np.array(counts.get(row.key, 0), np.int32))
    return (*trees, count)


def _with_zeros(rows: Sequence[Row], state: Mapping[str, Any]) -> dict[str, Any]:
    shapes = torch_shapes(rows).items()
    return {key: state[key] if key in state else np.zeros(shape, np.float32) for key, shape in shapes}


def _count(step: Any, number: int) -> int:
    value = step.item() if isinstance(step, np.ndarray) and step.size == 1 else step  # before PyTorch 1.12 an int
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MAX_COUNT and value % 1 == 0:
        return int(value)
    raise AdjaxError(f"the optimizer's state {number}: step must be a whole number from 0 to {_MAX_COUNT}")


def _number(rows: Sequence[Row], part: NetworkState) -> dict[int, dict[str, Any]]:
    """The inverse of `_unnumber`."""
    rows = parameter_rows(rows)
    moments = {theirs: to_torch(rows, {"params": getattr(part, ours)}) for ours, theirs in _MOMENTS.items()}
    counts: dict[str, set[int]] = {}
    for row in rows:
        assert row.path is not None
        node: Any = part.count
        for name in row.path[1:]:
            node = node.get(name) if isinstance(node, Mapping) else None
        if node is None:
            raise AdjaxError(f"the counts of updates lack {'/'.join(row.path[1:])}")
        counts.setdefault(row.key, set()).add(int(node))
    numbered: dict[int, dict[str, Any]] = {}
    for i, (key, steps) in enumerate(counts.items()):
        if len(steps) > 1:
            raise AdjaxError(f"the parts of {key} were updated {sorted(steps)} times, but PyTorch counts them as one")
        if (step := steps.pop()) > 0:
            numbered[i] = {"step": np.array(step, np.float32), **{name: m[key] for name, m in moments.items()}}
    return numbered
