"""Whether the released program would train as a run does: its `config.yml` must say the same when it is read again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from adjax.config import Adversarial, ModelConfig, Optimizer, TrainConfig, Vocoder
from adjax.errors import AdjaxError
from adjax.strict_json import to_dict
from adjax.torch_port.config_yml import VocoderModel, config_text, parse, parse_generator
from adjax.torch_port.discriminator_yml import read_discriminators
from adjax.torch_port.optimizer import optimizer_parameters, read_optimizer
from adjax.torch_port.training_yml import NEVER, read_training, train_mode, training_parameters
from adjax.torch_port.yaml_values import Values

# Fields of a TrainConfig that change nothing of what a step computes from its batch: `config.yml` does not hold them.
_OWN = ("seed", "init_from", "statistics", "parallel", "keep_every", "remat", "stop_on")
_OWN_DATA = ("train", "validation", "noisy", "noisy_validation")
_OWN_MODEL = ("name", "licence", "source")


def trained_network(model: ModelConfig) -> ModelConfig | VocoderModel:
    """What of a model the released program's training checkpoint holds: a pairing's vocoder, or all of it."""
    if not isinstance(model.decoder, Vocoder):
        return model
    return VocoderModel(model.name, model.sample_rate_hz, model.quantizer.dim, model.decoder)


def check_exportable(config: TrainConfig, path: Path) -> None:
    """Raises AdjaxError with everything of the run in `path` that the released program would not do."""
    mode, against = train_mode(config), config.adversarial or Adversarial(NEVER)
    settings = training_parameters(config)
    settings |= optimizer_parameters(config.optimizer, "generator")
    settings |= optimizer_parameters(against.optimizer, "discriminator")
    document = yaml.safe_load(config_text(trained_network(config.model), against.discriminators, settings))
    parsed = parse_generator(document, path, config.model.name)
    model = parsed if isinstance(parsed, ModelConfig) else replace(config.model, decoder=parsed.decoder)
    values = Values(document)

    def read() -> TrainConfig:
        discriminators = read_discriminators(values.within("discriminator_params"))
        optimizers = read_optimizer(values, "generator"), read_optimizer(values, "discriminator")
        return read_training(values, mode, model, discriminators, optimizers)

    if problems := _differences(_in_effect(config, mode), _in_effect(parse(path, values, read), mode)):
        raise AdjaxError(f"{path}: the published program cannot go on with this run: {'; '.join(problems)}")


def _in_effect(config: TrainConfig, mode: str) -> dict[str, Any]:
    """What a run's steps depend on, and nothing else."""
    losses, default = config.losses, type(config.losses)()
    fields = {"mel": "mel", "stft": "stft", "shape": "shape_windows", "spectral": "spectral"}
    unread = {field: getattr(default, field) for kind, field in fields.items() if not getattr(losses, f"{kind}_weight")}
    if losses.complex_weight or losses.magnitude_weight:
        unread.pop("mel", None)  # their resolutions
    if not losses.complex_weight:
        unread["complex_below_hz"] = None
    if not losses.magnitude_weight:
        unread |= {f: getattr(default, f) for f in ("magnitude_above_hz", "magnitude_start_step")}
    if mode == "vocoder":
        unread["vq_weight"] = 0.0  # of a frozen quantizer
    against = config.adversarial
    if against is not None and (mode == "denoise" or against.start_step >= NEVER):
        against = None
    elif against is not None:
        optimizer = _optimizer_in_effect(against.optimizer)
        against = replace(against, optimizer=optimizer, trained=tuple(sorted(against.trained)))
    plain = to_dict(
        replace(
            config,
            losses=replace(losses, **unread),
            optimizer=_optimizer_in_effect(config.optimizer),
            adversarial=against,
            trained=tuple(sorted(config.trained)),
        )
    )
    own_data = (*_OWN_DATA, *(() if config.data.noise else ("snr_db",)))
    for node, names in ((plain, _OWN), (plain["data"], own_data), (plain["model"], _OWN_MODEL)):
        for name in names:
            node.pop(name, None)
    return plain


def _optimizer_in_effect(optimizer: Optimizer) -> Optimizer:
    if optimizer.schedule == "constant":
        return replace(optimizer, final_share=0.0, milestones=(), gamma=Optimizer().gamma)
    return replace(optimizer, final_share=0.0, milestones=tuple(sorted(optimizer.milestones)))


def _differences(ours: Any, theirs: Any, place: str = "") -> list[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = [key for key in ours if key in theirs]
        return [d for key in keys for d in _differences(ours[key], theirs[key], f"{place}.{key}" if place else key)]
    return [] if ours == theirs else [f"{place} is {ours}, there it would be {theirs}"]
