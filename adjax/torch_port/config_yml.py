"""The released `config.yml` beside a checkpoint to a ModelConfig and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from adjax.config import ConvDecoder, ConvEncoder, ModelConfig, Quantizer
from adjax.errors import AdjaxError

LICENCE = "CC BY-NC 4.0 (AudioDec release) unless you trained it yourself"

_MAX_BYTES = 1 << 16
_MAX_INTEGER = 1 << 20
_MAX_BLOCKS = 16
_MODEL_TYPES = ("symAudioDec", "symAudioDecUniv")  # one generator, trained against different discriminators
_KEYS = {
    *("input_channels", "output_channels", "encode_channels", "decode_channels", "code_dim", "codebook_num"),
    *("codebook_size", "bias", "enc_ratios", "dec_ratios", "enc_strides", "dec_strides", "mode", "codec", "projector"),
    *("quantier", "use_weight_norm"),  # the released spelling
}


def read_config(path: Path, name: str) -> ModelConfig:
    """The ModelConfig, called `name`, of a symmetric autoencoder's `config.yml`; missing keys have defaults.

    Raises AdjaxError with every key that is unknown or has a value that adjax cannot follow.
    """
    document = _load(path)
    parameters = document.get("generator_params")
    if document.get("model_type") not in _MODEL_TYPES:
        raise AdjaxError(f"{path}: model_type must be {' or '.join(_MODEL_TYPES)}: only autoencoders can be imported")
    if not isinstance(parameters, dict):
        raise AdjaxError(f"{path}: generator_params must be a mapping")
    values = _Values({**parameters, "sampling_rate": document.get("sampling_rate", 48000)})
    values.problems += [f"{str(key)[:40]!r} is unknown" for key in parameters if key not in _KEYS]
    rate = values.integer("sampling_rate", 48000)
    causal = values.choice("mode", "causal", "noncausal") == "causal"
    activate = values.choice("codec", "audiodec", "activate_audiodec") == "activate_audiodec"
    values.choice("projector", "conv1d")
    values.choice("quantier", "residual_vq")
    bias, weight_norm = values.flag("bias", True), values.flag("use_weight_norm", activate)
    encoder, decoder, quantizer = ConvEncoder(), ConvDecoder(), Quantizer()
    encoder_sizes = {
        "channels": values.integer("encode_channels", encoder.channels),
        "ratios": values.integers("enc_ratios", encoder.ratios),
        "strides": values.integers("enc_strides", encoder.strides),
        "in_channels": values.integer("input_channels", encoder.in_channels),
    }
    decoder_sizes = {
        "channels": values.integer("decode_channels", decoder.channels),
        "ratios": values.integers("dec_ratios", decoder.ratios),
        "strides": values.integers("dec_strides", decoder.strides),
        "out_channels": values.integer("output_channels", decoder.out_channels),
    }
    quantizer_sizes = {
        "codebooks": values.integer("codebook_num", quantizer.codebooks),
        "codebook_size": values.integer("codebook_size", quantizer.codebook_size),
        "dim": values.integer("code_dim", quantizer.dim),
    }
    if values.problems:
        raise AdjaxError(f"{path}: {'; '.join(values.problems)}")
    flags = {"bias": bias, "causal": causal, "activate": activate, "weight_norm": weight_norm}
    try:
        return ModelConfig(
            name=name,
            sample_rate_hz=rate,
            encoder=replace(encoder, **encoder_sizes, **flags),
            quantizer=replace(quantizer, **quantizer_sizes),
            decoder=replace(decoder, **decoder_sizes, **flags),
            licence=LICENCE,
        )
    except AdjaxError as error:
        raise AdjaxError(f"{path}: {error}") from None


def config_text(config: ModelConfig) -> str:
    """The `config.yml` of a symmetric autoencoder as the released program reads it.

    Raises AdjaxError with every reason for which the released program could not hold the model.
    """
    import yaml

    encoder, decoder, quantizer = config.encoder, config.decoder, config.quantizer
    if not isinstance(encoder, ConvEncoder) or not isinstance(decoder, ConvDecoder):
        raise AdjaxError(
            f"{config.name}: the published program has no {type(encoder).__name__} with {type(decoder).__name__}; "
            "only a ConvEncoder with a ConvDecoder can be exported"
        )
    problems = [
        f"encoder.{name} and decoder.{name} differ, but the published program has one setting for both"
        for name in ("bias", "activate", "weight_norm")
        if getattr(encoder, name) != getattr(decoder, name)
    ]
    if encoder.aligned:
        problems.append("encoder.aligned: the published program's frames see the first sample of their hop only")
    if config.projector_bias:
        problems.append("projector_bias: the published program's projector has no bias")
    if encoder.weight_norm and not encoder.activate:
        problems.append("weight_norm without activate: the published program norms the activate_audiodec codec only")
    if problems:
        raise AdjaxError(f"{config.name}: cannot be exported: {'; '.join(problems)}")
    parameters: dict[str, Any] = {
        "input_channels": encoder.in_channels,
        "output_channels": decoder.out_channels,
        "encode_channels": encoder.channels,
        "decode_channels": decoder.channels,
        "code_dim": quantizer.dim,
        "codebook_num": quantizer.codebooks,
        "codebook_size": quantizer.codebook_size,
        "bias": encoder.bias,
        "enc_ratios": list(encoder.ratios),
        "dec_ratios": list(decoder.ratios),
        "enc_strides": list(encoder.strides),
        "dec_strides": list(decoder.strides),
        "mode": "causal" if encoder.causal else "noncausal",
        "codec": "activate_audiodec" if encoder.activate else "audiodec",
        "projector": "conv1d",
        "quantier": "residual_vq",
    }
    if encoder.activate:
        parameters["use_weight_norm"] = encoder.weight_norm
    document = {
        "sampling_rate": config.sample_rate_hz,
        "model_type": "symAudioDec",
        "train_mode": "autoencoder",
        "generator_params": parameters,
    }
    return yaml.safe_dump(document, sort_keys=True)


def _load(path: Path) -> dict[Any, Any]:
    import yaml

    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise AdjaxError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > _MAX_BYTES:
        raise AdjaxError(f"{path}: has more than {_MAX_BYTES} bytes, which no model's configuration needs")
    try:
        document = yaml.safe_load(data)
    except Exception as error:  # besides YAMLError its constructors let KeyError, IndexError and others through
        place = f" at line {mark.line + 1}" if (mark := getattr(error, "problem_mark", None)) else ""
        raise AdjaxError(f"{path}: is not valid YAML{place}") from None
    if not isinstance(document, dict):
        raise AdjaxError(f"{path}: must be a mapping with model_type and generator_params")
    return document


class _Values:
    """Typed look-ups that collect what is wrong, so that one message names it all."""

    def __init__(self, values: dict[Any, Any]) -> None:
        self.values = values
        self.problems: list[str] = []

    def integer(self, key: str, default: int) -> int:
        value = self.values.get(key, default)
        if _is_size(value):
            return value
        self.problems.append(f"{key} must be a whole number from 1 to {_MAX_INTEGER}")
        return default

    def integers(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        value = self.values.get(key, default)
        if isinstance(value, list | tuple) and 1 <= len(value) <= _MAX_BLOCKS and all(map(_is_size, value)):
            return tuple(value)
        self.problems.append(f"{key} must be a list of 1 to {_MAX_BLOCKS} whole numbers from 1 to {_MAX_INTEGER}")
        return default

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if isinstance(value, bool):
            return value
        self.problems.append(f"{key} must be true or false")
        return default

    def choice(self, key: str, *options: str) -> str:
        value = self.values.get(key, options[0])
        if isinstance(value, str) and value in options:
            return value
        shown = f" {value[:40]!r}" if isinstance(value, str) else ""
        self.problems.append(f"{key}{shown} is not supported; it must be {' or '.join(options)}")
        return options[0]


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MAX_INTEGER
