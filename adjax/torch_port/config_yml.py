"""The released `config.yml` beside a checkpoint to adjax configurations and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from adjax.config import ConvDecoder, ConvEncoder, Discriminators, ModelConfig, Quantizer, Vocoder
from adjax.errors import AdjaxError
from adjax.torch_port.discriminator_yml import discriminator_parameters
from adjax.torch_port.yaml_values import Values, load_yaml

LICENCE = "CC BY-NC 4.0 (AudioDec release) unless you trained it yourself"

_AUTOENCODERS = ("symAudioDec", "symAudioDecUniv")  # one generator, trained against different discriminators
_VOCODERS = ("HiFiGAN", "UnivNet")
_DELAYED = "decoder.delay_samples: the published program compares its output with the input as it stands"
_MAX_GROUPS = 64
_AUTOENCODER_KEYS = (
    *("input_channels", "output_channels", "encode_channels", "decode_channels", "code_dim", "codebook_num"),
    *("codebook_size", "bias", "enc_ratios", "dec_ratios", "enc_strides", "dec_strides", "mode", "codec", "projector"),
    *("quantier", "use_weight_norm"),  # the released spelling
)
_VOCODER_KEYS = (
    *("in_channels", "out_channels", "channels", "kernel_size", "upsample_scales", "upsample_kernel_sizes"),
    *("resblock_kernel_sizes", "resblock_dilations", "groups", "bias", "use_additional_convs", "use_weight_norm"),
    *("nonlinear_activation", "nonlinear_activation_params", "stats"),
)


class VocoderModel(NamedTuple):
    """What the `config.yml` of a vocoder tells: half of a ModelConfig."""

    name: str
    sample_rate_hz: int
    dim: int  # of the latents it takes
    decoder: Vocoder


def read_config(path: Path, name: str) -> ModelConfig:
    """The ModelConfig, called `name`, of a symmetric autoencoder's `config.yml`; missing keys have defaults.

    Raises AdjaxError with every key that is unknown or has a value that adjax cannot follow.
    """
    document = load_yaml(path)
    if document.get("model_type") not in _VOCODERS:
        model = parse_generator(document, path, name)
        assert isinstance(model, ModelConfig)
        return model
    kinds = " or ".join(_AUTOENCODERS)
    raise AdjaxError(f"{path}: its model_type is a vocoder's; only checkpoints of {kinds} hold an encoder")


def read_generator(path: Path, name: str) -> ModelConfig | VocoderModel:
    """As `read_config`, but takes a vocoder's `config.yml` too."""
    return parse_generator(load_yaml(path), path, name)


def parse_generator(document: Mapping[Any, Any], path: Path, name: str) -> ModelConfig | VocoderModel:
    """`read_generator` of what was read from `path`."""
    kind, parameters = document.get("model_type"), document.get("generator_params")
    if kind not in (*_AUTOENCODERS, *_VOCODERS):
        raise AdjaxError(f"{path}: model_type must be {', '.join(_AUTOENCODERS)}, {' or '.join(_VOCODERS)}")
    if not isinstance(parameters, dict):
        raise AdjaxError(f"{path}: generator_params must be a mapping")
    rate = Values({"sampling_rate": document.get("sampling_rate", 48000)})
    sample_rate_hz = rate.integer("sampling_rate", 48000)
    values = Values(parameters, problems=rate.problems)
    if kind in _VOCODERS:
        return parse(path, values, lambda: _read_vocoder(values, name, sample_rate_hz))
    return parse(path, values, lambda: _read_autoencoder(values, name, sample_rate_hz))


_T = TypeVar("_T")


def parse(path: Path, values: Values, read: Callable[[], _T]) -> _T:
    """What `read` returns; its error, or the problems that it left in `values`, are raised with the file's name."""
    try:
        result = read()
        if not values.problems:
            return result
        reasons = values.problems
    except AdjaxError as error:  # of a configuration's own checks, which see defaults where values were no use
        reasons = values.problems or [str(error)]
    raise AdjaxError(f"{path}: {'; '.join(reasons)}")


def _read_autoencoder(values: Values, name: str, sample_rate_hz: int) -> ModelConfig:
    values.only(*_AUTOENCODER_KEYS)
    encoder, decoder, quantizer = ConvEncoder(), ConvDecoder(), Quantizer()
    causal = values.choice("mode", "causal", "noncausal") == "causal"
    activate = values.choice("codec", "audiodec", "activate_audiodec") == "activate_audiodec"
    values.choice("projector", "conv1d")
    values.choice("quantier", "residual_vq")
    bias, weight_norm = values.flag("bias", True), values.flag("use_weight_norm", activate)
    flags = {"bias": bias, "causal": causal, "activate": activate, "weight_norm": weight_norm}
    return ModelConfig(
        name=name,
        sample_rate_hz=sample_rate_hz,
        encoder=ConvEncoder(
            channels=values.integer("encode_channels", encoder.channels),
            ratios=values.integers("enc_ratios", encoder.ratios),
            strides=values.integers("enc_strides", encoder.strides),
            in_channels=values.integer("input_channels", encoder.in_channels),
            **flags,
        ),
        quantizer=replace(
            quantizer,
            codebooks=values.integer("codebook_num", quantizer.codebooks),
            codebook_size=values.integer("codebook_size", quantizer.codebook_size),
            dim=values.integer("code_dim", quantizer.dim),
        ),
        decoder=ConvDecoder(
            channels=values.integer("decode_channels", decoder.channels),
            ratios=values.integers("dec_ratios", decoder.ratios),
            strides=values.integers("dec_strides", decoder.strides),
            out_channels=values.integer("output_channels", decoder.out_channels),
            **flags,
        ),
        licence=LICENCE,
    )


def _read_vocoder(values: Values, name: str, sample_rate_hz: int) -> VocoderModel:
    values.only(*_VOCODER_KEYS)
    default = Vocoder()
    strides = values.integers("upsample_scales", default.strides)
    if values.integers("upsample_kernel_sizes", tuple(2 * s for s in strides)) != tuple(2 * s for s in strides):
        values.problem("upsample_kernel_sizes", "must be twice upsample_scales: other overlaps are not supported")
    if not isinstance(stats := values.values.get("stats"), str | None):
        values.problem("stats", f"is a {type(stats).__name__}; it must be a file's name or null")
    decoder = Vocoder(
        channels=values.integer("channels", default.channels),
        strides=strides,
        kernel_size=values.integer("kernel_size", default.kernel_size),
        block_kernels=values.integers("resblock_kernel_sizes", default.block_kernels),
        block_dilations=values.integer_rows("resblock_dilations", default.block_dilations),
        groups=values.integer("groups", 1, _MAX_GROUPS),
        additional_convs=values.flag("use_additional_convs", True),
        out_channels=values.integer("out_channels", default.out_channels),
        bias=values.flag("bias", True),
        slope=values.leaky_slope(default.slope),
        statistics=stats is not None,
        weight_norm=values.flag("use_weight_norm", True),
    )
    return VocoderModel(name, sample_rate_hz, values.integer("in_channels", Quantizer().dim), decoder)


# ------------------------------------------------------------------------------------------------------------- writing


def config_text(
    model: ModelConfig | VocoderModel,
    discriminators: Discriminators | None = None,
    training: Mapping[str, Any] | None = None,
) -> str:
    """The `config.yml` of a symmetric autoencoder or a vocoder as the released program reads it.

    `training` holds further entries. Raises AdjaxError with every reason for which the released program could not hold
    the model.
    """
    import yaml

    is_vocoder = isinstance(model, VocoderModel)
    is_univ = discriminators is not None and discriminators.resolution is not None
    document: dict[str, Any] = {
        "sampling_rate": model.sample_rate_hz,
        "model_type": (_VOCODERS if is_vocoder else _AUTOENCODERS)[is_univ],
        "train_mode": "vocoder" if is_vocoder else "autoencoder",
        "generator_params": _vocoder_parameters(model) if is_vocoder else _autoencoder_parameters(model),
        **(training or {}),
    }
    if discriminators is not None:
        document["discriminator_params"] = discriminator_parameters(discriminators)
    return yaml.safe_dump(document, sort_keys=True)


def _vocoder_parameters(model: VocoderModel) -> dict[str, Any]:
    c = model.decoder
    if c.delay_samples:
        raise AdjaxError(f"{model.name}: cannot be exported: {_DELAYED}")
    return {
        "in_channels": model.dim,
        "out_channels": c.out_channels,
        "channels": c.channels,
        "kernel_size": c.kernel_size,
        "upsample_scales": list(c.strides),
        "upsample_kernel_sizes": [2 * s for s in c.strides],
        "resblock_kernel_sizes": list(c.block_kernels),
        "resblock_dilations": [list(row) for row in c.block_dilations],
        "groups": c.groups,
        "bias": c.bias,
        "use_additional_convs": c.additional_convs,
        "use_weight_norm": c.weight_norm,
        "nonlinear_activation": "LeakyReLU",
        "nonlinear_activation_params": {"negative_slope": c.slope},
        "stats": "stats.npy" if c.statistics else None,
    }


def _autoencoder_parameters(config: ModelConfig) -> dict[str, Any]:
    encoder, decoder, quantizer = config.encoder, config.decoder, config.quantizer
    if not isinstance(encoder, ConvEncoder) or not isinstance(decoder, ConvDecoder):
        raise AdjaxError(
            f"{config.name}: the published program has no {type(encoder).__name__} with {type(decoder).__name__}; "
            "only a ConvEncoder with a ConvDecoder or a Vocoder can be exported"
        )
    problems = [
        f"encoder.{name} and decoder.{name} differ, but the published program has one setting for both"
        for name in ("bias", "activate", "weight_norm")
        if getattr(encoder, name) != getattr(decoder, name)
    ]
    if encoder.aligned:
        problems.append("encoder.aligned: the published program's frames see the first sample of their hop only")
    if decoder.delay_samples:
        problems.append(_DELAYED)
    if quantizer.predicted:
        problems.append("quantizer.predicted: the published program codes latents, not differences between frames")
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
    return parameters
