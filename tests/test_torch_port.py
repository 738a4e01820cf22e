"""Released PyTorch checkpoints: what is read and what is written; test_torch_hostile.py holds what else is refused.

The folders in golden/ were written by the published program on small random models (golden/README.md there).
"""

from __future__ import annotations

import os
import pickle
import sys
from collections import Counter, OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adjax.config import ConvDecoder, ConvEncoder, ModelConfig, Quantizer, SpectralDecoder, SpectralEncoder
from adjax.errors import AdjaxError
from adjax.torch_port import (
    autoencoder_rows,
    config_text,
    export_checkpoint,
    from_torch,
    import_checkpoint,
    read_checkpoint,
    read_config,
    to_torch,
    write_checkpoint,
)
from tests.torch_files import archive, assert_same_arrays, small_checkpoint

GOLDEN = Path(__file__).parent / "golden"
CASES = ("symad", "symaad", "symad_hop320", "symad_stereo", "symad_noncausal")


def golden(case: str) -> Path:
    return GOLDEN / case / "checkpoint-10steps.pkl"


# -------------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("case", CASES)
def test_round_trip_is_bit_for_bit(case: str, tmp_path: Path) -> None:
    """Layouts are permutations and nothing is skipped, so every tensor comes back as the published program wrote it."""
    config, variables, steps = import_checkpoint(golden(case))
    exported = export_checkpoint(config, variables, tmp_path / case, steps)
    assert sorted(p.name for p in exported.parent.iterdir()) == ["checkpoint-10steps.pkl", "config.yml"]
    again = import_checkpoint(exported)
    assert (again[0], again[2]) == (config, 10)
    assert_same_arrays(again[1], variables)
    assert_same_arrays(
        read_checkpoint(exported)["model"]["generator"], read_checkpoint(golden(case))["model"]["generator"]
    )


def test_imported_configurations() -> None:
    """The five folders differ in what their names say; the licence must warn of the released weights' terms."""
    symad, symaad, hop320, stereo, noncausal = (read_config(GOLDEN / c / "config.yml", c) for c in CASES)
    assert (symad.hop_samples, hop320.hop_samples, symad.sample_rate_hz) == (300, 320, 48000)
    assert symad.encoder == ConvEncoder(channels=4)
    assert symaad.encoder == ConvEncoder(channels=4, activate=True, weight_norm=True)
    assert (stereo.audio_channels, noncausal.encoder.causal, hop320.quantizer.codebooks) == (2, False, 5)
    assert "CC BY-NC" in symad.licence


def test_layouts() -> None:
    """Checked element by element, since a wrong permutation would survive a round trip."""
    _, variables, _ = import_checkpoint(golden("symaad"))
    state = read_checkpoint(golden("symaad"))["model"]["generator"]
    params, books = variables["params"], variables["codebook"]["quantizer"]
    block, key = params["decoder"]["conv_blocks_1"]["conv"], "decoder.conv_blocks.1.1.conv.deconv"
    stride, outputs = 5, 16
    weight = state[f"{key}.weight_v"]
    for i, j, o in [(0, 0, 0), (3, 1, 2), (31, 4, 15)]:
        assert block["v"][1, i, j * outputs + o] == weight[i, o, j]
        assert block["v"][0, i, j * outputs + o] == weight[i, o, stride + j]
    np.testing.assert_array_equal(block["g"][0, :, 0], state[f"{key}.weight_g"][:, 0, 0])
    strided = params["encoder"]["conv_blocks_2"]["conv"]
    assert strided["v"][7, 3, 9] == state["encoder.conv_blocks.2.conv.conv.weight_v"][9, 3, 7]
    assert params["projector"]["g"].shape == (1, 1, 8)
    np.testing.assert_array_equal(strided["bias"], state["encoder.conv_blocks.2.conv.conv.bias"])
    assert books["embed"].shape == (3, 32, 8)
    np.testing.assert_array_equal(books["embed_avg"][2], state["quantizer.codebook.layers.2.embed_avg"].T)


def test_later_weight_norm_names(tmp_path: Path) -> None:
    """PyTorch's parametrizations hold the same g and v under other names; both at once would be ambiguous."""
    config, variables, _ = import_checkpoint(golden("symaad"))
    rows = autoencoder_rows(config)
    state = to_torch(rows, variables)
    later = {
        k.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): v
        for k, v in state.items()
    }
    assert not any(k.endswith("weight_g") for k in later)
    assert_same_arrays(from_torch(rows, later), variables)
    with pytest.raises(AdjaxError, match=r"encoder\.conv\.conv\.weight_g' twice"):
        from_torch(rows, {**later, "encoder.conv.conv.weight_g": state["encoder.conv.conv.weight_g"]})


# ------------------------------------------------------------------------------------------------- errors that name all


def test_misfits_are_all_named() -> None:
    """A key that were skipped would leave a layer at its initial weights, and the user with noise."""
    config, variables, _ = import_checkpoint(golden("symad"))
    rows = autoencoder_rows(config)
    state = to_torch(rows, variables)
    del state["decoder.conv2.conv.weight"], state["encoder.conv.pad_buffer"]
    state["extra.weight"] = np.zeros(1, np.float32)
    state["projector.project.conv.weight"] = np.zeros((8, 64, 5), np.float32)
    state["encoder.conv.conv.weight"] = state["encoder.conv.conv.weight"].astype(np.float16)
    with pytest.raises(AdjaxError) as caught:
        from_torch(rows, state)
    for part in ("missing: decoder.conv2.conv.weight", "missing: encoder.conv.pad_buffer", "unknown: 'extra.weight'"):
        assert part in str(caught.value)
    assert "projector.project.conv.weight has shape (8, 64, 5), but must have (8, 64, 3)" in str(caught.value)
    assert "encoder.conv.conv.weight is float16" in str(caught.value)
    params = variables["params"]
    broken = {"params": {**params, "projector": {"kernel": np.zeros((3, 64, 9), np.float32)}, "more": {"w": 1.0}}}
    with pytest.raises(AdjaxError) as caught:
        to_torch(rows, broken)
    for part in ("missing: codebook/quantizer/embed", "unknown: params/more/w", "params/projector/kernel has shape"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("mode: causal", "mode: sideways", "mode 'sideways'"),
        ("quantier: residual_vq", "quantier: gumbel_vq", "quantier 'gumbel_vq'"),
        ("code_dim: 8", "code_dim: true", "code_dim"),
        ("code_dim: 8", "code_dim: 0x" + "f" * 9000, "code_dim"),
        ("codebook_num: 3", "codebook_num: 300", "codebooks"),
        ("bias: true", "bias: 1", "bias"),
        ("bias: true", "dropout: 0.5", "'dropout' is unknown"),
        ("  - 16\n", "", "one entry a block"),
        ("model_type: symAudioDec", "model_type: HiFiGAN", "vocoder"),
        ("model_type: symAudioDec", "model_type: EnCodec", "model_type"),
        ("model_type: symAudioDec", "model_type: [1]", "model_type"),
        ("bias: true", "? 0x" + "f" * 9000 + "\n  : 1", "int.* is unknown"),
        ("sampling_rate: 48000", "sampling_rate: -1", "sampling_rate"),
        ("train_mode: autoencoder", "x: [" + "[" * 2000, "YAML"),
        ("train_mode: autoencoder", 'x: !!int ""', "YAML"),
        ("train_mode: autoencoder", "x: !!python/object/apply:os.getcwd []", "YAML"),
        ("train_mode: autoencoder", "#" * 70_000, "bytes"),
    ],
)
def test_unusable_config(old: str, new: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    text = (GOLDEN / "symad" / "config.yml").read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(AdjaxError, match=named) as caught:
        read_config(path, "m")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_default_config(tmp_path: Path) -> None:
    """Missing keys are the released 48 kHz model's."""
    (tmp_path / "config.yml").write_text("model_type: symAudioDecUniv\ngenerator_params: {}\n")
    assert replace(read_config(tmp_path / "config.yml", "m"), licence="Apache-2.0") == ModelConfig("m")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encoder": SpectralEncoder(), "decoder": SpectralDecoder()}, "SpectralEncoder"),
        ({"encoder": ConvEncoder(aligned=True), "projector_bias": True}, "aligned.*projector_bias"),
        ({"decoder": ConvDecoder(delay_samples=300)}, "delay_samples"),
        ({"quantizer": Quantizer(commit_every_stage=True, predicted=20)}, "quantizer.predicted"),
        ({"encoder": ConvEncoder(activate=True)}, "encoder.activate and decoder.activate differ"),
        ({"encoder": ConvEncoder(weight_norm=True)}, "weight_norm without activate"),
    ],
)
def test_own_models_are_not_exported(changes: dict, reason: str, tmp_path: Path) -> None:
    """The published program would load such a folder wrongly or not at all; nothing is left behind."""
    with pytest.raises(AdjaxError, match=reason):
        export_checkpoint(replace(ModelConfig("own"), **changes), {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert "mode: causal" in config_text(ModelConfig("m"))


# ---------------------------------------------------------------------------------------- reading, failing to write


def test_training_checkpoints(tmp_path: Path) -> None:
    """Optimizer and scheduler states hold scalars, lists, tuples and the Counter of MultiStepLR."""
    group = {"lr": 1e-4, "betas": (0.5, 0.9), "foreach": None, "params": [0, 1, 300, 70_000, -1, 1 << 40]}
    tree = OrderedDict(steps=6, optimizer={0: [group]}, milestones=Counter([200_000, 400_000]), flag=True)
    assert read_checkpoint(archive(tmp_path / "c.pkl", pickle.dumps(tree, 2))) == tree
    left = read_checkpoint(tmp_path / "c.pkl", leave_out=("optimizer", "model.discriminator", "steps.x"))
    assert set(left) == {"steps", "milestones", "flag"}


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    small = small_checkpoint(tmp_path / "small.pkl")
    before = small.read_bytes()
    with pytest.raises(TypeError, match="set"):
        write_checkpoint(small, {"a": {1, 2}})
    with pytest.raises(AdjaxError, match="cannot be written"):
        write_checkpoint(tmp_path / "no" / "folder.pkl", {})
    (tmp_path / "taken").mkdir()
    with pytest.raises(AdjaxError, match="cannot be written"):
        write_checkpoint(tmp_path / "taken", {})
    assert small.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"small.pkl", "taken"}


# -------------------------------------------------------------------------------------------------------------- PyTorch


def test_legacy_files_need_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of before 1.6 are pickles without an archive; the error says what to install."""
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "old.pkl").write_bytes(pickle.dumps({}, 2))
    with pytest.raises(AdjaxError, match=r"adjax\[torch\]"):
        read_checkpoint(tmp_path / "old.pkl")


@pytest.mark.torch
@pytest.mark.parametrize("case", CASES)
def test_torch_opens_exports(case: str, tmp_path: Path) -> None:
    """PyTorch's own restricted loader is the judge of what the writer wrote and of what the reader read."""
    torch = pytest.importorskip("torch")
    config, variables, steps = import_checkpoint(golden(case))
    path = export_checkpoint(config, variables, tmp_path, steps)
    ours, theirs = (torch.load(p, weights_only=True) for p in (path, golden(case)))
    assert ours.keys() == theirs.keys()
    assert ours["steps"] == 10
    ours, theirs = ours["model"]["generator"], theirs["model"]["generator"]
    assert type(ours) is type(theirs)
    assert_same_arrays({k: v.numpy() for k, v in ours.items()}, {k: v.numpy() for k, v in theirs.items()})
    read = read_checkpoint(golden(case))["model"]["generator"]
    assert_same_arrays({k: v.numpy() for k, v in theirs.items()}, read)


@pytest.mark.torch
def test_torch_reads_legacy_files(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    tree = torch.load(golden("symad"), weights_only=True)
    (tmp_path / "config.yml").write_bytes((GOLDEN / "symad" / "config.yml").read_bytes())
    old = tmp_path / "checkpoint-10steps.pkl"
    torch.save(tree, old, _use_new_zipfile_serialization=False)
    assert_same_arrays(import_checkpoint(old)[1], import_checkpoint(golden("symad"))[1])
    old.write_bytes(old.read_bytes()[:-1000])
    with pytest.raises(AdjaxError, match="PyTorch"):
        read_checkpoint(old)
    old.write_bytes(pickle.dumps({"a": os.mkdir}, 2))
    with pytest.raises(AdjaxError):
        read_checkpoint(old)


@pytest.mark.torch
def test_torch_saves_are_read(tmp_path: Path) -> None:
    """Every storage type, parameters, and views that share a storage, saved by PyTorch itself."""
    torch = pytest.importorskip("torch")
    base = torch.arange(24.0).reshape(4, 6)
    kinds = (torch.float64, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
    tree = {str(kind): base.to(kind) for kind in kinds}
    tree |= {"view": base[1:3, ::2].T, "parameter": torch.nn.Parameter(base), "scalar": torch.tensor(2.0)}
    torch.save(tree, tmp_path / "c.pkl")
    assert_same_arrays(read_checkpoint(tmp_path / "c.pkl"), {k: v.detach().numpy() for k, v in tree.items()})
