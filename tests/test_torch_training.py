"""Released training checkpoints: networks, optimizers and schedules come back as the published program wrote them.

The vocoder's run had its learning rate halved after three updates and its discriminators updated four times; the
denoising run left decoder and discriminators as they were, so that Adam knows nothing of them (golden/README.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from adjax.config import MultiScale, Optimizer
from adjax.errors import AdjaxError
from adjax.torch_port import (
    VocoderModel,
    export_training,
    import_training,
    read_checkpoint,
    write_checkpoint,
)
from tests.torch_files import assert_same_arrays

GOLDEN = Path(__file__).parent / "golden"
CASES = {"train_vocoder_checkpoint": 5, "train_denoise_checkpoint": 3}


def golden(case: str) -> Path:
    return GOLDEN / case / f"checkpoint-{CASES[case]}steps.pkl"


def assert_same(ours: Any, theirs: Any, place: str = "") -> None:
    """Nested dicts, lists and arrays are equal, types and bits included; only the order of dicts is free."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), place
        for key, value in theirs.items():
            assert_same(ours[key], value, f"{place}/{key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), place
        for i, value in enumerate(theirs):
            assert_same(ours[i], value, f"{place}/{i}")
    elif isinstance(theirs, np.ndarray):
        assert (ours.dtype, ours.shape, ours.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes()), place
    else:
        assert (type(ours), ours) == (type(theirs), theirs), place


def leaves(tree: dict[str, Any]) -> Iterator[np.ndarray]:
    for value in tree.values():
        yield from leaves(value) if isinstance(value, dict) else (value,)


def copy(case: str, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The golden checkpoint, changed, in another folder."""
    tree = read_checkpoint(golden(case))
    change(tree)
    path = folder / golden(case).name
    write_checkpoint(path, tree)
    (folder / "config.yml").write_bytes((GOLDEN / case / "config.yml").read_bytes())
    return path


@pytest.mark.parametrize("case", CASES)
def test_round_trip_is_bit_for_bit(case: str, tmp_path: Path) -> None:
    """Layouts are permutations, numbering follows the order of the keys, and what was never updated is left out."""
    state = import_training(golden(case))
    exported = export_training(state, tmp_path / case)
    assert exported.name == golden(case).name
    ours, theirs = read_checkpoint(exported), read_checkpoint(golden(case))
    assert_same(ours, theirs)
    for network in ("generator", "discriminator"):
        assert list(ours["model"][network]) == list(theirs["model"][network])
        assert list(ours["optimizer"][network]["state"]) == list(theirs["optimizer"][network]["state"])
    again = import_training(exported)
    assert_same(again.generator._asdict(), state.generator._asdict())
    assert_same(again.discriminator._asdict(), state.discriminator._asdict())
    assert (again.model, again.discriminators) == (state.model, state.discriminators)
    assert (again.steps, again.epochs, again.train_mode) == (state.steps, state.epochs, state.train_mode)


def test_what_is_imported() -> None:
    vocoder, denoise = map(import_training, map(golden, CASES))
    assert isinstance(vocoder.model, VocoderModel)
    assert (vocoder.model.dim, vocoder.steps, vocoder.train_mode) == (8, 5, "vocoder")
    assert vocoder.discriminators.scale == MultiScale(channels=16, max_channels=32)
    generator = vocoder.generator
    assert generator.optimizer == Optimizer(
        learning_rate=2e-4, schedule="steps", milestones=(3, 400_000), gamma=0.5, clip_norm=0
    )
    assert (generator.learning_rate, generator.updates, vocoder.discriminator.updates) == (1e-4, 3, 4)
    assert {int(n) for n in leaves(generator.count)} == {3}
    assert denoise.train_mode == "denoise"
    assert denoise.model.name == "train_denoise_checkpoint"
    assert denoise.generator.optimizer == Optimizer(learning_rate=1e-4)
    assert {int(n) for n in leaves(denoise.discriminator.count)} == {0}
    for tree in (denoise.generator.mu, denoise.generator.nu, denoise.generator.count):
        assert all(np.any(leaf) for part in ("encoder", "projector") for leaf in leaves(tree[part]))
        assert not any(np.any(leaf) for leaf in leaves(tree["decoder"]))


@pytest.mark.parametrize("case", CASES)
def test_moments_lie_as_their_parameters(case: str) -> None:
    """A tree of moments has the parameters' structure and shapes; checked at some elements against the numbering."""
    state = import_training(golden(case))
    for network in (state.generator, state.discriminator):
        params = network.variables["params"]
        for tree in (network.mu, network.nu):
            assert_same_arrays(zeros_like(tree), zeros_like(params))
    tree = read_checkpoint(golden(case))
    if case == "train_vocoder_checkpoint":
        keys = [k for k in tree["model"]["generator"] if not k.endswith("pad_buffer") and k not in ("mean", "scale")]
        entry = tree["optimizer"]["generator"]["state"][keys.index("blocks.2.convs1.1.conv.weight_v")]
        mu = state.generator.mu["decoder"]["blocks_2"]["groups_2"]["convs1_1"]["v"]
        assert mu[6, 3, 1] == entry["exp_avg"][2 * 4 + 1, 3, 6] != 0
        entry = tree["optimizer"]["discriminator"]["state"][2]  # the second layer's weight, after weight and bias
        nu = state.discriminator.nu["scale"]["discriminators_0"]["layers_1"]["kernel"]
        assert nu[40, 3, 9] == entry["exp_avg_sq"][9, 3, 40] != 0


def zeros_like(tree: dict[str, Any]) -> dict[str, Any]:
    return {k: zeros_like(v) if isinstance(v, dict) else np.zeros_like(v) for k, v in tree.items()}


def test_before_the_first_step(tmp_path: Path) -> None:
    """A checkpoint without optimizers starts from the settings in config.yml, with empty moments."""

    def forget(tree: dict[str, Any]) -> None:
        tree.update(optimizer={}, scheduler={}, steps=0)

    state = import_training(copy("train_vocoder_checkpoint", tmp_path, forget))
    later = import_training(golden("train_vocoder_checkpoint"))
    assert state.generator.optimizer == later.generator.optimizer
    assert state.discriminator.optimizer == later.discriminator.optimizer
    assert (state.generator.learning_rate, state.generator.updates) == (2e-4, 0)
    assert not any(map(np.any, leaves(state.generator.mu)))
    exported = read_checkpoint(export_training(state, tmp_path / "out"))
    assert exported["optimizer"]["generator"]["state"] == {}
    assert exported["scheduler"]["generator"]["last_epoch"] == 0


def test_older_checkpoints(tmp_path: Path) -> None:
    """PyTorch counted in plain integers before 1.12, and its groups and schedules had fewer entries."""

    def age(tree: dict[str, Any]) -> None:
        for network in ("generator", "discriminator"):
            optimizer, schedule = tree["optimizer"][network], tree["scheduler"][network]
            for entry in optimizer["state"].values():
                entry["step"] = int(entry["step"])
            (group,) = optimizer["param_groups"]
            for key in ("maximize", "foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay"):
                del group[key]
            del schedule["_is_initial"]
            schedule["verbose"] = False

    old = import_training(copy("train_vocoder_checkpoint", tmp_path, age))
    new = import_training(golden("train_vocoder_checkpoint"))
    assert_same(old.generator._asdict(), new.generator._asdict())


def test_settings_are_written(tmp_path: Path) -> None:
    """The program that goes on reads them from config.yml where it does not from the checkpoint."""
    state = import_training(golden("train_denoise_checkpoint"))
    optimizer = Optimizer(3e-4, (0.8, 0.99), schedule="steps", milestones=(9, 2), gamma=0.25, clip_norm=1.5)
    state = state._replace(generator=state.generator._replace(optimizer=optimizer, learning_rate=7e-5))
    exported = export_training(state, tmp_path)
    document = yaml.safe_load((tmp_path / "config.yml").read_text())
    assert document["train_mode"] == "denoise"
    assert document["generator_scheduler_params"] == {"milestones": [2, 9], "gamma": 0.25}
    assert document["generator_grad_norm"] == 1.5
    again = import_training(exported).generator
    assert again.learning_rate == 7e-5
    assert again.optimizer == Optimizer(
        3e-4, (0.8, 0.99), schedule="steps", milestones=(2, 9), gamma=0.25, clip_norm=1.5
    )


def break_state(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda tree: tree["optimizer"]["generator"]["state"][4].update(changes)


def break_group(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda tree: tree["optimizer"]["generator"]["param_groups"][0].update(changes)


def break_schedule(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda tree: tree["scheduler"]["generator"].update(changes)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (break_state(step=0.5), "step must be a whole number"),
        (break_state(step=np.float32([1, 2])), "step must be a whole number"),
        (break_state(step=float("nan")), "step must be a whole number"),
        (break_state(exp_avg=np.zeros((32, 1, 2), np.float32)), r"exp_avg.*upsamples\.0\.deconv\.weight_g has shape"),
        (break_state(exp_avg_sq=np.zeros((32, 1, 1))), "exp_avg_sq.*float64"),
        (break_state(max_exp_avg_sq=0), "as Adam's does"),
        (break_group(amsgrad=True), "amsgrad is not supported"),
        (break_group(amsgrad=[[]]), "amsgrad is not supported"),
        (break_group(weight_decay=0.01), "weight_decay"),
        (break_group(lr=np.array(1e-4)), "lr must be a number"),
        (break_group(betas=(0.5, 1.0)), "betas"),
        (break_group(params=[1, 0]), "98 parameters"),
        (break_schedule(last_epoch=-1), "last_epoch"),
        (break_schedule(gamma=None, milestones={"3": 1}), "gamma must be a number; milestones"),
        (break_schedule(milestones={3: 1 << 40}), "milestones"),
        (break_schedule(milestones=None), "StepLR with gamma 1"),
        (lambda tree: tree["optimizer"]["generator"]["param_groups"].append({}), "single parameter group"),
        (lambda tree: tree["optimizer"]["generator"]["state"].update({98: {}}), "numbered from 0, under 98"),
        (lambda tree: tree["optimizer"]["generator"]["state"].update({0: []}), "state 0 must hold"),
        (lambda tree: tree["optimizer"].update(generator=[]), "single parameter group"),
        (lambda tree: tree["scheduler"].pop("generator"), "scheduler must be"),
        (lambda tree: tree["model"].pop("discriminator"), "discriminator: .*does not hold this network"),
        (lambda tree: tree["model"]["discriminator"].clear(), "discriminator: .*missing: msd"),
        (lambda tree: tree.update(epochs="many"), "epochs"),
    ],
)
def test_damaged_training_checkpoints(change: Callable, reason: str, tmp_path: Path) -> None:
    """Each is an error in one line that names the file: moments of another parameter would harm training unseen."""
    path = copy("train_vocoder_checkpoint", tmp_path, change)
    with pytest.raises(AdjaxError, match=reason) as caught:
        import_training(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("generator_optimizer_type", "RAdam", "generator_optimizer_type 'RAdam'"),
        ("generator_optimizer_params", {"lr": "1e-4"}, r"generator_optimizer_params\.lr.*1\.0e-4"),
        ("discriminator_scheduler_type", "ExponentialLR", "StepLR or MultiStepLR"),
        ("discriminator_scheduler_params", {"milestones": "none"}, r"discriminator_scheduler_params\.milestones"),
        ("generator_grad_norm", "high", "generator_grad_norm"),
        ("train_mode", "denoise", "train_mode 'denoise'"),
        ("discriminator_params", [1], "discriminator_params must be a mapping"),
        ("discriminator_params", None, "no discriminator_params"),
    ],
)
def test_unusable_training_config(key: str, value: Any, reason: str, tmp_path: Path) -> None:
    path = copy("train_vocoder_checkpoint", tmp_path, dict)
    document = yaml.safe_load((tmp_path / "config.yml").read_text()) | {key: value}
    if value is None:
        del document[key]
    (tmp_path / "config.yml").write_text(yaml.safe_dump(document))
    with pytest.raises(AdjaxError, match=reason):
        import_training(path)


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    """Nothing is written where the published program could not go on as adjax would."""
    state = import_training(golden("train_vocoder_checkpoint"))

    def refused(reason: str, **changes: Any) -> None:
        with pytest.raises(AdjaxError, match=reason):
            export_training(state._replace(generator=state.generator._replace(**changes)), tmp_path / "out")
        assert not (tmp_path / "out").exists()

    refused("warm-up", optimizer=Optimizer(schedule="cosine", warmup_steps=10))
    lacking = {"decoder": {k: v for k, v in state.generator.count["decoder"].items() if k != "input_conv"}}
    refused("lack decoder/input_conv/bias", count=lacking)
    refused("missing: params/decoder/input_conv/bias", mu=lacking)
    state.generator.count["decoder"]["blocks_0"]["groups_1"]["convs1_0"]["v"] = np.int32(9)
    refused(r"blocks\.0\.convs1\.0\.conv\.weight_v were updated \[3, 9\] times", learning_rate=1e-4)
    refused("unknown: params/scale", **state.discriminator._asdict())


@pytest.mark.torch
@pytest.mark.parametrize("case", CASES)
def test_torch_goes_on_from_exports(case: str, tmp_path: Path) -> None:
    """PyTorch's restricted loader opens them, and its own Adam and schedulers take the states and step on."""
    torch = pytest.importorskip("torch")
    exported = export_training(import_training(golden(case)), tmp_path)
    ours, theirs = (torch.load(p, weights_only=True) for p in (exported, golden(case)))
    assert ours.keys() == theirs.keys()
    for network in ("generator", "discriminator"):
        state, released = ours["model"][network], theirs["model"][network]
        assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in released.items()}
        buffers = ("pad_buffer", "mean", "scale", "embed", "embed_avg", "cluster_size")
        parameters = [torch.nn.Parameter(v) for k, v in state.items() if k.split(".")[-1] not in buffers]
        adam = torch.optim.Adam(parameters)
        schedules = torch.optim.lr_scheduler
        is_step = "step_size" in ours["scheduler"][network]
        schedule = schedules.StepLR(adam, 1) if is_step else schedules.MultiStepLR(adam, [1])
        adam.load_state_dict(ours["optimizer"][network])
        schedule.load_state_dict(ours["scheduler"][network])
        assert type(ours["scheduler"][network].get("milestones")) is type(
            theirs["scheduler"][network].get("milestones")
        )
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        adam.step()
        schedule.step()
        rate = ours["optimizer"][network]["param_groups"][0]["lr"]
        assert schedule.get_last_lr() == [rate]
        assert schedule.last_epoch == theirs["scheduler"][network]["last_epoch"] + 1
