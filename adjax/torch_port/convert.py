"""Released PyTorch model folders to configurations and variables, and the other way."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adjax.config import ConvDecoder, ConvEncoder, ModelConfig, Vocoder
from adjax.errors import AdjaxError
from adjax.latent_statistics import read_latent_statistics
from adjax.torch_port.autoencoder import autoencoder_rows
from adjax.torch_port.config_yml import VocoderModel, config_text, read_config, read_generator
from adjax.torch_port.layout import Row, from_torch, to_torch, torch_shapes
from adjax.torch_port.reader import read_checkpoint
from adjax.torch_port.vocoder import STATISTICS, vocoder_rows
from adjax.torch_port.writer import write_checkpoint, write_in_place

Variables = dict[str, Any]

ZERO_DECODER = "its symmetric decoder is zeros, there only because strict loading asks for it"


class Generator(NamedTuple):
    """A network of the released program and how long it was trained."""

    model: ModelConfig | VocoderModel
    variables: Variables
    steps: int


def generator_rows(model: ModelConfig | VocoderModel) -> list[Row]:
    """The tensors of an autoencoder or a vocoder."""
    return autoencoder_rows(model) if isinstance(model, ModelConfig) else vocoder_rows(model.decoder, model.dim)


def _folder_name(checkpoint: Path) -> str:
    return checkpoint.resolve().parent.name


def import_checkpoint(checkpoint: Path, name: str | None = None) -> tuple[ModelConfig, Variables, int]:
    """The configuration, the variables (nested dicts of float32 arrays) and the steps of a released autoencoder.

    Its `config.yml` lies beside the checkpoint. The model is called `name`, by default after its folder.
    Raises AdjaxError for a damaged or hostile file and for one that does not fit its configuration.
    """
    checkpoint = Path(checkpoint)
    config = read_config(checkpoint.parent / "config.yml", name or _folder_name(checkpoint))
    _, variables, steps = _import(checkpoint, config)
    return replace(config, source=f"PyTorch checkpoint of {steps} steps"), variables, steps


def import_generator(checkpoint: Path, statistics: Path | None = None) -> Generator:
    """As `import_checkpoint`, of an autoencoder or a vocoder.

    `statistics`, a .npy file, takes the place of the vocoder's own.
    """
    checkpoint = Path(checkpoint)
    return _import(checkpoint, read_generator(checkpoint.parent / "config.yml", _folder_name(checkpoint)), statistics)


def import_pairing(
    encoder: Path, decoder: Path | None = None, statistics: Path | None = None, name: str | None = None
) -> tuple[ModelConfig, Variables]:
    """An autoencoder's checkpoint, its decoder replaced by another checkpoint's, an autoencoder's or a vocoder's.

    Raises AdjaxError where the two do not fit each other.
    """
    config, variables, steps = import_checkpoint(encoder, name)
    if decoder is None:
        if statistics is not None:
            raise AdjaxError(f"{statistics}: statistics belong to a vocoder; name its checkpoint with --decoder")
        if is_zero_decoder(variables):
            raise AdjaxError(f"{encoder}: {ZERO_DECODER}; name the decoder's checkpoint with --decoder")
        return config, variables
    other = import_generator(decoder, statistics)
    _check_pairing(config, variables, other, encoder, decoder)
    config = replace(
        config,
        decoder=other.model.decoder,
        source=f"PyTorch checkpoints of {steps} (encoder) and {other.steps} steps (decoder)",
    )
    params = {**variables["params"], "decoder": other.variables["params"]["decoder"]}
    constants = {"stats": other.variables["stats"]} if "stats" in other.variables else {}
    return config, {**variables, "params": params, **constants}


def is_zero_decoder(variables: Mapping[str, Any]) -> bool:
    """Whether an autoencoder's decoder is the one that `export_model` fills in."""
    last = variables["params"]["decoder"]["conv2"]
    return not np.any(last.get("g", last.get("kernel")))


def export_checkpoint(
    model: ModelConfig | VocoderModel, variables: Mapping[str, Any], out_dir: Path, steps: int = 0
) -> Path:
    """Writes OUT_DIR/config.yml and OUT_DIR/checkpoint-<steps>steps.pkl for the published program; returns the latter.

    The checkpoint has every key that the program's strict loading asks for, its zero stream buffers included. A
    vocoder's folder holds stats.npy too. Raises AdjaxError for a model that the published program cannot hold and where
    nothing can be written.
    """
    text = config_text(model)
    networks = {"generator": to_torch(generator_rows(model), variables), "discriminator": {}}
    tree = {"model": networks, "steps": steps, "epochs": 0, "optimizer": {}, "scheduler": {}}
    return write_folder(Path(out_dir), text, tree)


def export_model(config: ModelConfig, variables: Mapping[str, Any], out_dir: Path, steps: int = 0) -> list[Path]:
    """As `export_checkpoint`; a pairing with a vocoder becomes two folders, OUT_DIR/autoencoder and OUT_DIR/vocoder.

    The released program's autoencoders have a symmetric decoder. Such a pairing has none, so the mirrored encoder's
    shapes are written, filled with zeros (in weight-normed layers by their gains).
    """
    if not isinstance(config.decoder, Vocoder):
        return [export_checkpoint(config, variables, out_dir, steps)]
    vocoder = VocoderModel(config.name, config.sample_rate_hz, config.quantizer.dim, config.decoder)
    constants = {"stats": variables["stats"]} if "stats" in variables else {}
    autoencoder, own = encoder_alone(config, variables)
    vocoder_variables = {"params": {"decoder": variables["params"]["decoder"]}, **constants}
    config_text(autoencoder)  # what cannot be exported fails before anything is written
    to_torch(generator_rows(vocoder), vocoder_variables)
    out_dir = Path(out_dir)
    return [
        export_checkpoint(autoencoder, own, out_dir / "autoencoder", steps),
        export_checkpoint(vocoder, vocoder_variables, out_dir / "vocoder", steps),
    ]


def encoder_alone(config: ModelConfig, variables: Mapping[str, Any]) -> tuple[ModelConfig, Variables]:
    """A pairing's encoder and codebooks as the released program has them, with a symmetric decoder of zeros.

    Raises AdjaxError for an encoder that the released program does not have.
    """
    if not isinstance(config.encoder, ConvEncoder):
        raise AdjaxError(
            f"{config.name}: the published program has no {type(config.encoder).__name__}; only a ConvEncoder with a "
            "ConvDecoder or a Vocoder can be exported"
        )
    autoencoder = replace(config, decoder=mirrored_decoder(config.encoder))
    rest = {k: v for k, v in variables.items() if k != "stats"}
    return autoencoder, {**rest, "params": {**variables["params"], "decoder": zero_decoder(autoencoder)}}


def mirrored_decoder(encoder: ConvEncoder) -> ConvDecoder:
    """The symmetric decoder of an encoder's shapes, as all the released autoencoders have it."""
    return ConvDecoder(
        channels=encoder.channels,
        ratios=encoder.ratios[::-1],
        strides=encoder.strides[::-1],
        out_channels=encoder.in_channels,
        bias=encoder.bias,
        causal=encoder.causal,
        activate=encoder.activate,
        weight_norm=encoder.weight_norm,
    )


def zero_decoder(config: ModelConfig) -> Variables:
    """Parameters of a symmetric decoder that gives silence; directions of weight-normed kernels are ones, since the
    published program divides by their norm."""
    rows = autoencoder_rows(config)
    shapes = torch_shapes(rows).items()
    state = {key: np.full(shape, 1 if key.endswith("weight_v") else 0, np.float32) for key, shape in shapes}
    return from_torch(rows, state)["params"]["decoder"]


def write_folder(out_dir: Path, text: str, tree: dict[str, Any]) -> Path:
    """Writes a model folder of the released form, a vocoder's stats.npy included; returns the checkpoint's path."""
    checkpoint = out_dir / f"checkpoint-{tree['steps']}steps.pkl"
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AdjaxError(f"{out_dir}: cannot be created: {error.strerror}") from None
    state = tree["model"]["generator"]
    if all(key in state for key in STATISTICS):
        table = io.BytesIO()
        np.save(table, np.stack([state[key] for key in STATISTICS]))
        write_in_place(out_dir / "stats.npy", lambda file: file.write(table.getvalue()))
    write_checkpoint(checkpoint, tree)
    write_in_place(out_dir / "config.yml", lambda file: file.write(text.encode()))
    return checkpoint


def networks_of(tree: Mapping[str, Any], checkpoint: Path) -> tuple[dict[str, Any], int]:
    """The entry `model` of a checkpoint and its steps."""
    networks, steps = tree.get("model"), tree.get("steps", 0)
    if not isinstance(networks, dict) or not isinstance(networks.get("generator"), dict):
        raise AdjaxError(f"{checkpoint}: holds no model.generator; it must be a checkpoint of the published program")
    if not isinstance(steps, int) or not 0 <= steps < 1 << 63:
        raise AdjaxError(f"{checkpoint}: steps must be a whole number from 0")
    return networks, steps


def _import(checkpoint: Path, model: ModelConfig | VocoderModel, statistics: Path | None = None) -> Generator:
    tree = read_checkpoint(checkpoint, leave_out=("optimizer", "scheduler", "model.discriminator"))
    networks, steps = networks_of(tree, checkpoint)
    state = networks["generator"]
    if statistics is not None:
        if isinstance(model, ModelConfig):
            raise AdjaxError(f"{statistics}: statistics belong to a vocoder, but {checkpoint} holds an autoencoder")
        model = model._replace(decoder=replace(model.decoder, statistics=True))
        state = OrderedDict(state) | read_latent_statistics(Path(statistics), model.dim)
    try:
        variables = from_torch(generator_rows(model), state)
    except AdjaxError as error:
        raise AdjaxError(f"{checkpoint}: {error}") from None
    return Generator(model, variables, steps)


def _check_pairing(config: ModelConfig, variables: Variables, other: Generator, encoder: Path, decoder: Path) -> None:
    theirs = other.model.quantizer.dim if isinstance(other.model, ModelConfig) else other.model.dim
    facts = (
        ("sample rate", config.sample_rate_hz, other.model.sample_rate_hz, "Hz"),
        ("hop", config.encoder.hop_samples, other.model.decoder.hop_samples, "samples"),
        ("code size", config.quantizer.dim, theirs, "channels"),
        ("channel count", config.encoder.in_channels, other.model.decoder.out_channels, "audio channels"),
    )
    problems = [f"{name} of {a} and {b} {unit}" for name, a, b, unit in facts if a != b]
    if config.encoder.causal != other.model.decoder.causal:
        problems.append("one is causal, the other is not")
    if problems:
        raise AdjaxError(f"{decoder}: does not fit the encoder {encoder}: {'; '.join(problems)}")
    if isinstance(other.model, ModelConfig):
        if not np.array_equal(_codebooks(variables), _codebooks(other.variables)):
            raise AdjaxError(f"{decoder}: its decoder was trained with other codebooks than the encoder's")
        if is_zero_decoder(other.variables):
            raise AdjaxError(f"{decoder}: {ZERO_DECODER}; it cannot be the decoder")


def _codebooks(variables: Variables) -> np.ndarray:
    return variables["codebook"]["quantizer"]["embed"]
