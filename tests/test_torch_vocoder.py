"""Released vocoders and discriminators to adjax and back; test_torch_pairing.py has what joins them to an encoder.

The folders in golden/ were written by the published program on small random models (golden/README.md there).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from adjax.config import ComplexStft, Discriminators, ModelConfig, MultiPeriod, MultiResolution, MultiScale, Vocoder
from adjax.errors import AdjaxError
from adjax.torch_port import (
    VocoderModel,
    config_text,
    discriminator_rows,
    export_checkpoint,
    from_torch,
    import_generator,
    read_checkpoint,
    read_generator,
    to_torch,
    vocoder_rows,
)
from adjax.torch_port.config_yml import parse
from adjax.torch_port.discriminator_yml import discriminator_parameters, read_discriminators
from adjax.torch_port.yaml_values import Values, load_yaml
from tests.torch_files import assert_same_arrays, counted

GOLDEN = Path(__file__).parent / "golden"
VOCODERS = ("vocoder_v0", "vocoder_v1", "vocoder_v2")
DISCRIMINATORS = ("hifigan_discriminator", "univnet_discriminator")


def golden(case: str) -> Path:
    return GOLDEN / case / "checkpoint-10steps.pkl"


def discriminators_of(case: str) -> tuple[Discriminators, dict[str, np.ndarray]]:
    """The configuration and the state dict of a golden discriminator."""
    config = read_parameters(load_yaml(GOLDEN / case / "config.yml")["discriminator_params"])
    return config, read_checkpoint(golden(case))["model"]["discriminator"]


def read_parameters(parameters: dict) -> Discriminators:
    values = Values(parameters)
    return parse(Path("config.yml"), values, lambda: read_discriminators(values))


# -------------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("case", VOCODERS)
def test_vocoder_round_trip_is_bit_for_bit(case: str, tmp_path: Path) -> None:
    """Nothing is skipped and groups are whole slices, so all comes back: tensors, their order, settings, statistics."""
    model, variables, steps = import_generator(golden(case))
    exported = export_checkpoint(model, variables, tmp_path / case, steps)
    assert_same_arrays(
        read_checkpoint(exported)["model"]["generator"], read_checkpoint(golden(case))["model"]["generator"]
    )
    assert (tmp_path / case / "stats.npy").read_bytes() == (GOLDEN / case / "stats.npy").read_bytes()
    ours, theirs = (yaml.safe_load((p / case / "config.yml").read_text()) for p in (tmp_path, GOLDEN))
    assert ours == theirs
    again = import_generator(exported)
    assert (again.model, again.steps) == (model, 10)
    assert_same_arrays(again.variables, variables)


@pytest.mark.parametrize("case", DISCRIMINATORS)
def test_discriminator_round_trip_is_bit_for_bit(case: str) -> None:
    config, state = discriminators_of(case)
    rows = discriminator_rows(config)
    assert_same_arrays(to_torch(rows, from_torch(rows, state)), state)
    assert discriminator_parameters(config) == load_yaml(GOLDEN / case / "config.yml")["discriminator_params"]
    assert isinstance(config.period, MultiPeriod)
    assert config.period.channels == 4
    if case == "hifigan_discriminator":
        assert config.scale == MultiScale(channels=16, max_channels=64)  # its norm is none whatever was asked for
    else:
        assert (config.scale, config.resolution) == (None, MultiResolution(channels=4))


@pytest.mark.parametrize(
    "changes",
    [
        {"weight_norm": False, "statistics": False},
        {"additional_convs": False, "bias": False},
        {"groups": 1, "block_kernels": (3, 5), "block_dilations": ((1, 2), (4,)), "slope": 0.2, "out_channels": 2},
        {"groups": 1, "block_kernels": (3,), "block_dilations": ((1,),), "weight_norm": False},
    ],
)
def test_unreleased_vocoders_round_trip(changes: dict, tmp_path: Path) -> None:
    """Options that no golden folder has: their tensors have paths of their own, and config.yml tells all of them."""
    model = VocoderModel("v", 24000, 6, replace(Vocoder(channels=8, strides=(2, 3)), **changes))
    rows = vocoder_rows(model.decoder, 6)
    variables = from_torch(rows, counted(rows))
    exported = export_checkpoint(model, variables, tmp_path / "v", 3)
    again = import_generator(exported)
    assert again.model == model
    assert_same_arrays(again.variables, variables)
    keys = read_checkpoint(exported)["model"]["generator"].keys()
    assert any("convs2" in key for key in keys) == model.decoder.additional_convs
    assert any(key.endswith("bias") for key in keys) == model.decoder.bias
    assert ("mean" in keys) == model.decoder.statistics
    assert (tmp_path / "v" / "stats.npy").exists() == model.decoder.statistics


def test_a_delayed_vocoder_is_not_exported(tmp_path: Path) -> None:
    model = VocoderModel("v", 24000, 6, Vocoder(channels=8, strides=(2, 3), delay_samples=3))
    with pytest.raises(AdjaxError, match=r"v: cannot be exported: decoder\.delay_samples"):
        export_checkpoint(model, {}, tmp_path / "v")
    assert not (tmp_path / "v").exists()


# ------------------------------------------------------------------------------------------------------------- layouts


def test_vocoder_layouts() -> None:
    """Checked element by element, since a wrong permutation would survive a round trip."""
    state = read_checkpoint(golden("vocoder_v1"))["model"]["generator"]
    variables = import_generator(golden("vocoder_v1")).variables
    decoder = variables["params"]["decoder"]
    weight, block = state["blocks.1.convs1.2.conv.weight_v"], decoder["blocks_1"]
    channels = 8
    for group, k, i, o in [(0, 0, 0, 0), (1, 10, 7, 3), (2, 4, 5, 6)]:
        assert block[f"groups_{group}"]["convs1_2"]["v"][k, i, o] == weight[group * channels + o, i, k]
    second = block["groups_1"]["convs2_0"]
    np.testing.assert_array_equal(second["g"][0, 0], state["blocks.1.convs2.0.conv.weight_g"][8:16, 0, 0])
    np.testing.assert_array_equal(second["bias"], state["blocks.1.convs2.0.conv.bias"][8:16])
    mix = state["blocks.0.conv_out.weight_v"]  # [out, groups * in, 1]: groups one after the other, as concatenated
    assert decoder["blocks_0"]["conv_out"]["v"][0, 17, 5] == mix[5, 17, 0]
    assert decoder["upsamples_0"]["v"][0, 3, 2 * 16 + 9] == state["upsamples.0.deconv.weight_v"][3, 9, 5 + 2]
    statistics = np.load(GOLDEN / "vocoder_v1" / "stats.npy")
    np.testing.assert_array_equal(variables["stats"]["decoder"]["mean"], statistics[0])
    np.testing.assert_array_equal(variables["stats"]["decoder"]["scale"], statistics[1])


def test_discriminator_layouts() -> None:
    config, state = discriminators_of("hifigan_discriminator")
    params = from_torch(discriminator_rows(config), state)["params"]
    grouped = params["scale"]["discriminators_1"]["layers_2"]["kernel"]
    assert grouped.shape == (41, 1, 32)  # [k, in / groups, out]
    assert grouped[7, 0, 30] == state["msd.discriminators.1.layers.2.0.conv.weight"][30, 0, 7]
    period = params["period"]["discriminators_3"]
    assert period["convs_1"]["v"][4, 2, 11] == state["mpd.discriminators.3.convs.1.0.conv.weight_v"][11, 2, 4, 0]
    assert period["convs_1"]["g"].shape == (1, 1, 16)
    assert period["output_conv"]["v"].shape == (2, 32, 1)
    config, state = discriminators_of("univnet_discriminator")
    variables = from_torch(discriminator_rows(config), state)
    image = variables["params"]["resolution"]["discriminators_2"]["layers_3"]
    assert image["v"][2, 8, 1, 3] == state["mrsd.discriminators.2.layers.3.0.conv.weight_v"][3, 1, 2, 8]
    assert image["g"].shape == (1, 1, 1, 4)
    window = variables["stats"]["resolution"]["discriminators_1"]["window"]
    np.testing.assert_array_equal(window, state["mrsd.discriminators.1.window"])


def test_later_weight_norm_names() -> None:
    """PyTorch's parametrizations hold the same g and v under other names, in grouped and 2-D convolutions too."""
    config, state = discriminators_of("univnet_discriminator")
    model, variables, _ = import_generator(golden("vocoder_v1"))
    assert isinstance(model, VocoderModel)
    rows = vocoder_rows(model.decoder, model.dim)
    cases = ((rows, to_torch(rows, variables)), (discriminator_rows(config), state))
    for rows, released in cases:
        later = {
            k.replace("weight_g", "parametrizations.weight.original0").replace(
                "weight_v", "parametrizations.weight.original1"
            ): v
            for k, v in released.items()
        }
        assert not any(k.endswith("weight_g") for k in later)
        assert_same_arrays(from_torch(rows, later), from_torch(rows, released))


# ------------------------------------------------------------------------------------------------- errors that name all


def test_misfits_are_all_named() -> None:
    """A tensor of groups is one tensor: its shape is told whole, and once."""
    model, variables, _ = import_generator(golden("vocoder_v1"))
    assert isinstance(model, VocoderModel)
    rows = vocoder_rows(model.decoder, model.dim)
    state = dict(to_torch(rows, variables))
    del state["blocks.0.convs1.0.conv.weight_v"], state["mean"]
    state["blocks.0.convs1.1.conv.bias"] = np.zeros(47, np.float32)
    state["blocks.0.convs1.3.conv.bias"] = np.zeros(48, np.float32)
    with pytest.raises(AdjaxError) as caught:
        from_torch(rows, state)
    text = str(caught.value)
    assert text.count("blocks.0.convs1.0.conv.weight_v") == 1
    for part in (
        "missing: mean",
        "blocks.0.convs1.1.conv.bias has shape (47,), but must have (48,)",
        "unknown: 'blocks.0.convs1.3",
    ):
        assert part in text
    del variables["params"]["decoder"]["blocks_2"]["groups_1"]
    with pytest.raises(AdjaxError, match="missing: params/decoder/blocks_2/groups_1/convs1_0/bias"):
        to_torch(rows, variables)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("  - 8\n  - 6\n", "  - 9\n  - 6\n", "upsample_kernel_sizes"),
        ("  - 8\n  - 6\n", "  - 8\n", "upsample_kernel_sizes"),
        ("LeakyReLU", "SiLU", "nonlinear_activation 'SiLU'"),
        ("negative_slope: 0.1", "negative_slope: 1.5", r"nonlinear_activation_params\.negative_slope"),
        ("negative_slope: 0.1", "inplace: true", r"nonlinear_activation_params\.'inplace' is unknown"),
        ("  - - 1\n    - 3\n    - 5\n", "  - 1\n  - 3\n", "resblock_dilations"),
        ("groups: 3", "groups: 1000000", "groups"),
        ("groups: 3", "dropout: 0.5", "'dropout' is unknown"),
        ("channels: 32", "channels: 24", "divisible by 16"),
        ("stats: stats.npy", "stats: 3", "stats"),
        ("resblock_kernel_sizes:\n  - 11", "resblock_kernel_sizes:\n  - 11\n  - 3", "one entry a residual block"),
    ],
)
def test_unusable_vocoder_config(old: str, new: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    text = (GOLDEN / "vocoder_v1" / "config.yml").read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(AdjaxError, match=named) as caught:
        read_generator(path, "v")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unusable_discriminator_config() -> None:
    """All that is wrong is named at once, with the mapping that it is in."""
    parameters = load_yaml(GOLDEN / "hifigan_discriminator" / "config.yml")["discriminator_params"]
    parameters["scales"] = 1 << 30
    parameters["scale_downsample_pooling_params"]["padding"] = 0
    parameters["scale_discriminator_params"]["bias"] = False
    parameters["period_discriminator_params"] |= {"use_spectral_norm": True, "kernel_sizes": [5, 1], "dropout": 0.1}
    with pytest.raises(AdjaxError) as caught:
        read_parameters(parameters)
    for part in (
        "scales must be",
        "scale_downsample_pooling_params.padding",
        "scale_discriminator_params.bias",
        "period_discriminator_params.use_spectral_norm",
        "period_discriminator_params.kernel_sizes",
        "period_discriminator_params.'dropout' is unknown",
    ):
        assert part in str(caught.value)
    parameters = load_yaml(GOLDEN / "univnet_discriminator" / "config.yml")["discriminator_params"]
    with pytest.raises(AdjaxError, match="one entry a resolution"):
        read_parameters(parameters | {"hop_sizes": [120]})
    with pytest.raises(AdjaxError, match=r"spectral_discriminator_params\.strides must be a list"):
        read_parameters(parameters | {"spectral_discriminator_params": {"strides": [[1, 2, 3]]}})


def test_other_discriminators_are_not_exported() -> None:
    with pytest.raises(AdjaxError, match=r"discriminators\.stft"):
        discriminator_rows(Discriminators(stft=ComplexStft()))
    with pytest.raises(AdjaxError, match=r"discriminators\.scale\.norm 'spectral', discriminators\.period\.norm"):
        discriminator_rows(Discriminators(MultiScale(norm="spectral"), period=MultiPeriod(norm="spectral")))
    compressed = Discriminators(scale=None, resolution=MultiResolution(exponent=0.3))
    for export in (discriminator_rows, discriminator_parameters):
        with pytest.raises(AdjaxError, match=r"discriminators\.resolution\.exponent 0\.3"):
            export(compressed)
    with pytest.raises(AdjaxError, match="either scale or resolution"):
        discriminator_parameters(Discriminators(resolution=MultiResolution()))


@pytest.mark.parametrize(
    "config", [Discriminators(), Discriminators(scale=None, resolution=MultiResolution(norm="none"))]
)
def test_model_types_tell_the_discriminators(config: Discriminators) -> None:
    """The published program chooses its discriminators by the model's type."""
    is_univ = config.resolution is not None
    for model, names in (
        (ModelConfig("m"), ("symAudioDec", "symAudioDecUniv")),
        (VocoderModel("v", 48000, 64, Vocoder()), ("HiFiGAN", "UnivNet")),
    ):
        document = yaml.safe_load(config_text(model, config))
        assert document["model_type"] == names[is_univ]
        assert read_parameters(document["discriminator_params"]) == config


# ------------------------------------------------------------------------------------------------------------- PyTorch


@pytest.mark.torch
@pytest.mark.parametrize("case", VOCODERS)
def test_torch_opens_exports(case: str, tmp_path: Path) -> None:
    """PyTorch's own restricted loader is the judge of what the writer wrote."""
    torch = pytest.importorskip("torch")
    model, variables, steps = import_generator(golden(case))
    exported = export_checkpoint(model, variables, tmp_path, steps)
    ours, theirs = (torch.load(p, weights_only=True) for p in (exported, golden(case)))
    assert ours.keys() == theirs.keys()
    ours, theirs = ours["model"]["generator"], theirs["model"]["generator"]
    assert_same_arrays({k: v.numpy() for k, v in ours.items()}, {k: v.numpy() for k, v in theirs.items()})
