"""How the released program trains, as its `config.yml` says it, to a TrainConfig and back."""

from __future__ import annotations

from typing import Any

from adjax.config import PARTS, Adversarial, Data, Discriminators, ModelConfig, Optimizer, TrainConfig, Vocoder
from adjax.torch_port.losses_yml import loss_parameters, read_losses, read_weight
from adjax.torch_port.yaml_values import Values

NEVER = (1 << 31) - 1  # the step at which discriminators start that a run never trains

_STEPS = {"autoencoder": 700_000, "vocoder": 500_000, "denoise": 200_000}  # as published, where the file does not say
_CODERS = ("encoder", "projector")
_OPTIMIZERS = tuple(
    f"{network}_{key}"
    for network in ("generator", "discriminator")
    for key in ("optimizer_type", "optimizer_params", "scheduler_type", "scheduler_params", "grad_norm")
)
_KEYS = (
    *("sampling_rate", "model_type", "train_mode", "generator_params", "discriminator_params", *_OPTIMIZERS),
    *("batch_size", "batch_length", "adv_batch_length", "train_max_steps"),
    *("log_interval_steps", "eval_interval_steps", "save_interval_steps"),
    *("use_mel_loss", "lambda_mel_loss", "mel_loss_params", "use_stft_loss", "lambda_stft_loss", "stft_loss_params"),
    *("use_shape_loss", "lambda_shape_loss", "shape_loss_params", "lambda_vq_loss", "lambda_adv"),
    *("use_feat_match_loss", "lambda_feat_match", "feat_match_loss_params"),
    *("generator_adv_loss_params", "discriminator_adv_loss_params"),
)
_STARTS = {
    "autoencoder": ("paradigm", "start_steps"),
    "vocoder": ("generator_train_start_steps", "discriminator_train_start_steps"),
    "denoise": (),
}
_LEFT_BEHIND = {  # what does not change what a step computes, or not in this procedure
    mode: (
        *("analyzer", "config", "data", "num_workers", "outdir", "pin_memory", "rank", "resume", "seed", "tag"),
        *("verbose", *(_STARTS["autoencoder"] if mode == "denoise" else ())),
    )
    for mode in _STEPS
}


def left_behind(values: Values, mode: str) -> tuple[str, ...]:
    """The keys that `read_training` knows but does not follow: data, folders, and the starts of other procedures."""
    return tuple(key for key in _LEFT_BEHIND[mode] if key in values.values)


def read_training(
    values: Values,
    mode: str,
    model: ModelConfig,
    discriminators: Discriminators,
    optimizers: tuple[Optimizer, Optimizer],
) -> TrainConfig:
    """The TrainConfig of a whole `config.yml` of the procedure `mode`, its networks and optimizers read before.

    Problems are left in `values`: unknown keys, missing ones whose default would be a guess, and values that adjax
    cannot follow.
    """
    before = len(values.problems)
    values.only(*_KEYS, *_STARTS[mode], *_LEFT_BEHIND[mode])
    if len(values.problems) > before:
        values.problems[-1] += " (what does not change the training can be taken out of the file)"
    trained, generator_start, adversarial_start, later = _read_phases(values, mode)
    adversarial = _read_adversarial(values, mode)
    return TrainConfig(
        model,
        _read_data(values, mode),
        read_losses(values, mode, model.sample_rate_hz),
        optimizers[0],
        trained,
        generator_start,
        Adversarial(adversarial_start, discriminators, optimizers[1], later, **adversarial),
        steps=values.integer("train_max_steps", _STEPS[mode], NEVER),
        log_every=values.integer("log_interval_steps", 100, NEVER),
        evaluate_every=values.integer("eval_interval_steps", 1000, NEVER),
        save_every=values.integer("save_interval_steps", 1000, NEVER),
    )


def _whole(values: Values, key: str) -> int:
    values.need(key)
    value = values.values.get(key, 0)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= NEVER:
        return value
    values.problem(key, f"must be a whole number from 0 to {NEVER}")
    return 0


def _read_phases(values: Values, mode: str) -> tuple[Any, int, int, Any]:
    """The parts trained first, the generator's and the discriminators' first steps, the parts trained from the latter.

    A run that denoises trains no discriminators; that all parts would be trained against them keeps all moments.
    """
    if mode == "denoise":
        return _CODERS, 0, NEVER, PARTS
    if mode == "vocoder":  # both are trained after the step that the file names
        starts = [_whole(values, f"{network}_train_start_steps") + 1 for network in ("generator", "discriminator")]
        return ("decoder",), starts[0], starts[1], ("decoder",)
    values.need("paradigm", "start_steps")
    if not isinstance(paradigm := values.values.get("paradigm", ""), str):
        values.problem("paradigm", "must be text: efficient freezes all before the decoder, any other nothing")
    inner = values.within("start_steps")
    inner.only("generator", "discriminator")
    inner.constant("generator", 0)
    return PARTS, 0, _whole(inner, "discriminator"), ("decoder",) if paradigm == "efficient" else PARTS


def _read_data(values: Values, mode: str) -> Data:
    default = Data()
    values.need("batch_size", "batch_length")
    length = values.integer("batch_length", default.crop_samples)
    if mode != "denoise" and values.integer("adv_batch_length", length) != length:
        values.problem("adv_batch_length", "must be batch_length's: adjax's crops have one length throughout")
    return Data(batch_size=values.integer("batch_size", default.batch_size), crop_samples=length)


def _read_adversarial(values: Values, mode: str) -> dict[str, Any]:
    default = Adversarial()
    needed = mode != "denoise"
    values.need(*(("lambda_adv",) if needed else ()))
    kinds, averages = [], []
    for network in ("generator", "discriminator"):
        inner = values.within(f"{network}_adv_loss_params")
        inner.only("average_by_discriminators", "loss_type")
        inner.need(*(("average_by_discriminators",) if needed else ()))
        kinds.append(inner.choice("loss_type", "mse", "hinge"))
        averages.append(inner.flag("average_by_discriminators", False))
    if len(set(kinds)) > 1 or len(set(averages)) > 1:
        values.problem("discriminator_adv_loss_params", "must be generator_adv_loss_params's: adjax has one for both")
    matching = values.within("feat_match_loss_params")
    flags = ("average_by_layers", "average_by_discriminators", "include_final_outputs")
    matching.only(*flags)
    weight = read_weight(values, "use_feat_match_loss", "lambda_feat_match") if needed else default.feature_weight
    matching.need(*(flags if needed and weight else ()))
    by_layers, by_discriminators, final = (matching.flag(key, False) for key in flags)
    return {
        "loss": kinds[0],
        "weight": values.number("lambda_adv", default.weight, 0, 1e6),
        "feature_weight": weight,
        "average_by_discriminators": averages[0],
        "feature_average_by_layers": by_layers,
        "feature_average_by_discriminators": by_discriminators,
        "feature_final_outputs": final,
    }


# ------------------------------------------------------------------------------------------------------------- writing


def train_mode(config: TrainConfig) -> str:
    """The released procedure that comes nearest to a run's: autoencoder, vocoder or denoise."""
    if isinstance(config.model.decoder, Vocoder):
        return "vocoder"
    never = config.adversarial is None or config.adversarial.start_step >= config.steps
    return "denoise" if never and set(config.trained) == set(_CODERS) else "autoencoder"


def training_parameters(config: TrainConfig) -> dict[str, Any]:
    """The entries of `config.yml` beside networks and optimizers; what they cannot say is left to a comparison."""
    adversarial = config.adversarial or Adversarial(NEVER, trained=("decoder",))
    losses, data, mode = config.losses, config.data, train_mode(config)
    average = {"average_by_discriminators": adversarial.average_by_discriminators, "loss_type": adversarial.loss}
    entries: dict[str, Any] = {
        "train_mode": mode,
        "train_max_steps": config.steps,
        "log_interval_steps": config.log_every,
        "eval_interval_steps": config.evaluate_every,
        "save_interval_steps": config.save_every,
        "batch_size": data.batch_size,
        "batch_length": data.crop_samples,
        "adv_batch_length": data.crop_samples,
        **loss_parameters(losses, config.model.sample_rate_hz),
        "lambda_vq_loss": losses.vq_weight,
        "lambda_adv": adversarial.weight,
        "generator_adv_loss_params": dict(average),
        "discriminator_adv_loss_params": dict(average),
        "use_feat_match_loss": bool(adversarial.feature_weight),
        "lambda_feat_match": adversarial.feature_weight,
        "feat_match_loss_params": {
            "average_by_layers": adversarial.feature_average_by_layers,
            "average_by_discriminators": adversarial.feature_average_by_discriminators,
            "include_final_outputs": adversarial.feature_final_outputs,
        },
    }
    if mode == "vocoder":
        entries["generator_train_start_steps"] = max(config.generator_start_step - 1, 0)
        entries["discriminator_train_start_steps"] = max(adversarial.start_step - 1, 0)
    elif mode == "autoencoder":
        entries["paradigm"] = "efficient" if set(adversarial.trained) == {"decoder"} else "normal"
        entries["start_steps"] = {"generator": 0, "discriminator": adversarial.start_step}
    return entries
