"""Training that goes on across frameworks: released checkpoints become runs and runs become released checkpoints.

The golden runs are the published program's own (golden/README.md): from its weights before the first step, by way of
both formats, a run must come to its weights, moments and counts after the last.
"""

from __future__ import annotations

import functools
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import yaml

from adjax import torch_runs
from adjax.cli import main
from adjax.config import (
    PARTS,
    Adversarial,
    Augmentation,
    ComplexStft,
    Data,
    Discriminators,
    Losses,
    Mel,
    ModelConfig,
    MultiPeriod,
    MultiResolution,
    MultiScale,
    Optimizer,
    Stft,
    TrainConfig,
)
from adjax.errors import AdjaxError
from adjax.strict_json import to_dict, to_json
from adjax.torch_port import (
    autoencoder_rows,
    discriminator_rows,
    export_checkpoint,
    import_training,
    read_checkpoint,
    read_config,
    read_generator,
    to_torch,
    vocoder_rows,
    write_checkpoint,
)
from adjax.torch_port.config_yml import parse
from adjax.torch_port.optimizer import read_optimizer
from adjax.torch_port.training_check import check_exportable
from adjax.torch_port.training_yml import NEVER, left_behind, read_training
from adjax.torch_port.yaml_values import Values, load_yaml
from adjax.torch_runs import export_run, import_run
from adjax.train import loop, start
from adjax.train.checkpoints import Checkpoints
from adjax.train.corpus import Corpus
from adjax.train.start import items, restored
from adjax.train.state import TrainState, from_variables, make_optimizers
from tests.conftest import TINY_CONV, fill
from tests.step_on_devices import fill_discriminators
from tests.test_golden_training import (
    FULL,
    LATE,
    arrays,
    assert_ends,
    autoencoder,
    discriminators_of,
    full_ends,
    network,
    networks,
)
from tests.test_torch_training import assert_same

GOLDEN = Path(__file__).parent / "golden"
SMALL = Discriminators(
    MultiScale(scales=2, channels=4, max_channels=16, max_groups=4), period=MultiPeriod((2, 3), 2, max_channels=8)
)


@pytest.fixture(scope="module", autouse=True)
def traced_once() -> Iterator[None]:
    """A configuration's shapes are traced once, not for every look into its checkpoints."""
    with pytest.MonkeyPatch.context() as patch:
        cached = functools.cache(start.abstract_items)
        patch.setattr(start, "abstract_items", cached)
        patch.setattr(loop, "abstract_items", cached)
        yield


def config_folder(case: str) -> Path:
    return FULL[case][0] if case in FULL else GOLDEN / case


def encoder_folder(folder: Path) -> Path:
    """The released checkpoint of the encoder and codebooks that the golden vocoder was trained on."""
    model, _ = autoencoder("train_autoencoder")
    before = arrays("train_autoencoder", "start.npz")
    other = arrays("train_vocoder", "start.npz")
    before |= {k.replace("analyzer/", "generator/"): v for k, v in other.items() if k.startswith("analyzer/")}
    return export_checkpoint(model, network(before, autoencoder_rows(model), "generator"), folder)


def first_checkpoint(case: str, folder: Path) -> Path:
    """What the published program had before a golden run's first step, without optimizers, as it writes it."""
    path = config_folder(case) / "config.yml"
    before = arrays("train_autoencoder", "start.npz") | arrays(case, "start.npz")
    if case == "train_vocoder":
        vocoder = read_generator(path, case)
        rows = vocoder_rows(vocoder.decoder, vocoder.dim)  # type: ignore
    else:
        rows = autoencoder_rows(read_config(path, case))
    others = discriminator_rows(discriminators_of(path))
    model = {"generator": to_torch(rows, network(before, rows, "generator"))}
    if case == "train_denoise":  # which never trains them: they are in its end as they were
        model["discriminator"] = read_checkpoint(FULL[case][0] / "checkpoint-3steps.pkl")["model"]["discriminator"]
    else:
        model["discriminator"] = to_torch(others, network(before, others, "discriminator"))
    tree = {"model": model, "optimizer": {}, "scheduler": {}, "steps": 0, "epochs": 0}
    folder.mkdir()
    write_checkpoint(folder / "checkpoint-0steps.pkl", tree)
    (folder / "config.yml").write_bytes(path.read_bytes())
    return folder / "checkpoint-0steps.pkl"


def state_of(run: Path) -> TrainState:
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        step = checkpoints.latest_step()
        assert step is not None
        return jax.device_get(restored(loop.read_run(run), checkpoints, step))


def assert_same_states(ours: TrainState, theirs: TrainState) -> None:
    flat, tree = jax.tree.flatten(ours)
    others, other_tree = jax.tree.flatten(theirs)
    assert tree == other_tree
    for a, b in zip(flat, others, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


# ------------------------------------------------------------------------------------------------------- configurations


def read(document: dict[str, Any], model: ModelConfig, path: Path = Path("config.yml")) -> TrainConfig:
    values, discriminators = Values(document), SMALL
    optimizers = read_optimizer(values, "generator"), read_optimizer(values, "discriminator")
    mode = document["train_mode"]
    return parse(path, values, lambda: read_training(values, mode, model, discriminators, optimizers))


MODEL = read_config(GOLDEN / "train_autoencoder" / "config.yml", "golden")
DATA = Data(batch_size=4, crop_samples=9600)
FAR = Mel(fmax_hz=24_000.0)
INTERVALS = {"log_every": 100, "evaluate_every": 1000, "save_every": 100_000}


@pytest.mark.parametrize(
    ("case", "wanted"),
    [
        (
            "train_autoencoder",
            {"adversarial": Adversarial(3, SMALL, LATE, ("decoder",)), "steps": 700_000},
        ),
        ("train_autoencoder_unfrozen", {"adversarial": Adversarial(2, SMALL, LATE, PARTS), "steps": 700_000}),
        (
            "train_autoencoder_univ",
            {
                "losses": Losses(FAR, stft_weight=45.0, shape_weight=45.0),
                "optimizer": Optimizer(clip_norm=1.0),
                "adversarial": Adversarial(1, SMALL, replace(LATE, clip_norm=1.0), ("decoder",)),
                "steps": 700_000,
            },
        ),
        (
            "train_vocoder",
            {
                "losses": Losses(FAR, vq_weight=0.0),
                "optimizer": replace(LATE, milestones=(3, 400_000)),
                "trained": ("decoder",),
                "generator_start_step": 2,
                "adversarial": Adversarial(1, SMALL, LATE, ("decoder",)),
                "steps": 500_000,
            },
        ),
        (
            "train_denoise",
            {
                "trained": ("encoder", "projector"),
                "adversarial": Adversarial(NEVER, SMALL, LATE, PARTS),
                "steps": 200_000,
            },
        ),
    ],
)
def test_configurations_of_the_golden_runs(case: str, wanted: dict[str, Any]) -> None:
    """The TrainConfig that tests/test_golden_training.py follows each run with, here from its `config.yml` alone."""
    document = load_yaml(config_folder(case) / "config.yml")
    settings = {"losses": Losses(FAR), "optimizer": Optimizer(), **INTERVALS, **wanted}
    assert read(document, MODEL) == TrainConfig(MODEL, DATA, **settings)
    assert left_behind(Values({**document, "data": {}}), document["train_mode"]) == ("data",)


def test_every_option_of_a_config(tmp_path: Path) -> None:
    document = load_yaml(GOLDEN / "train_autoencoder" / "config.yml") | {
        "mel_loss_params": {
            **{"fs": 48000, "fft_sizes": [512, 256], "hop_sizes": [128, 64], "win_lengths": [None, 200]},
            **{"num_mels": 20, "fmin": None, "fmax": None, "log_base": 10},
        },
        "use_stft_loss": True,
        "lambda_stft_loss": 2.0,
        "stft_loss_params": {"fft_sizes": [512], "hop_sizes": [100], "win_lengths": None},
        "use_shape_loss": True,
        "shape_loss_params": {"winlen": [100, 200]},
        "lambda_vq_loss": 0.5,
        "lambda_adv": 3.0,
        "generator_adv_loss_params": {"average_by_discriminators": True, "loss_type": "hinge"},
        "discriminator_adv_loss_params": {"average_by_discriminators": True, "loss_type": "hinge"},
        "use_feat_match_loss": False,
        "feat_match_loss_params": {
            **{"average_by_discriminators": True, "average_by_layers": True, "include_final_outputs": True},
        },
        "train_max_steps": 12,
        "log_interval_steps": 3,
        "eval_interval_steps": 4,
        "save_interval_steps": 5,
    }
    config = read(document, MODEL)
    assert config.losses == Losses(
        Mel((512, 256), (128, 64), (512, 200), (20, 20), log_base=10.0),
        stft=Stft((512,), (100,), (512,)),
        stft_weight=2.0,
        shape_windows=(100, 200),
        shape_weight=45.0,
        vq_weight=0.5,
    )
    options = Adversarial(3, SMALL, LATE, ("decoder",), "hinge", 3.0, 0.0, True, True, True, True)
    assert config.adversarial == options
    assert (config.steps, config.log_every, config.evaluate_every, config.save_every) == (12, 3, 4, 5)
    check_exportable(config, tmp_path)  # all of it can be written and read again
    unread = replace(config.losses, magnitude_above_hz=100.0, magnitude_start_step=5)  # without a weight
    check_exportable(replace(config, losses=unread), tmp_path)


@pytest.mark.parametrize(
    ("case", "change", "reason"),
    [
        ("train_autoencoder", {"use_subband_loss": True}, "'use_subband_loss' is unknown.*taken out of the file"),
        ("train_autoencoder", {"paradigm": ...}, "paradigm is missing"),
        ("train_autoencoder", {"start_steps": {"discriminator": -1}}, r"start_steps\.discriminator must be a whole"),
        ("train_autoencoder", {"start_steps": {"generator": 9, "discriminator": 9}}, r"start_steps\.generator is not"),
        ("train_autoencoder", {"adv_batch_length": 4800}, "adv_batch_length must be batch_length's"),
        ("train_autoencoder", {"batch_length": 9601, "adv_batch_length": 9601}, "whole number of hops"),
        ("train_autoencoder", {"lambda_mel_loss": "45"}, "lambda_mel_loss must be a number"),
        ("train_autoencoder", {"lambda_vq_loss": ...}, "lambda_vq_loss is missing"),
        ("train_autoencoder", {"use_shape_loss": ...}, "use_shape_loss is missing"),
        ("train_autoencoder", {"generator_adv_loss_params": {}}, "average_by_discriminators is missing"),
        ("train_autoencoder", {"discriminator_adv_loss_params": {"average_by_discriminators": True}}, "one for both"),
        ("train_autoencoder", {"discriminator_adv_loss_params": {"loss_type": "wgan"}}, "mse or hinge"),
        ("train_autoencoder", {"mel_loss_params": {"fs": 24000}}, r"mel_loss_params\.fs must be sampling_rate, 48000"),
        ("train_autoencoder", {"mel_loss_params": {"log_base": 3}}, r"log_base must be null, 2 or 10"),
        ("train_autoencoder", {"mel_loss_params": {"eps": 0.1}}, r"mel_loss_params\.'eps' is unknown"),
        ("train_autoencoder", {"train_max_steps": 0}, "train_max_steps must be a whole number from 1"),
        ("train_vocoder", {"generator_train_start_steps": 1.5}, "generator_train_start_steps must be a whole"),
        ("train_vocoder", {"start_steps": {}}, "'start_steps' is unknown"),
    ],
)
def test_unusable_configurations(case: str, change: dict[str, Any], reason: str) -> None:
    """What adjax cannot follow would change the training unseen: each is an error that names the key."""
    document = load_yaml(config_folder(case) / "config.yml") | change
    with pytest.raises(AdjaxError, match=reason) as caught:
        read({key: value for key, value in document.items() if value is not ...}, MODEL)
    assert "config.yml" in str(caught.value)


PLAIN = replace(TINY_CONV, name="plain", encoder=replace(TINY_CONV.encoder, aligned=False))


def plain_run(**changes: Any) -> TrainConfig:
    adversarial = Adversarial(7, SMALL, trained=("decoder",), loss="hinge")
    optimizer = Optimizer(3e-4, schedule="steps", milestones=(9, 2), gamma=0.3, clip_norm=2.0)
    mel = Mel((256,), (64,), (256,), (20,))
    config = TrainConfig(PLAIN, Data(crop_samples=400), Losses(mel), optimizer, adversarial=adversarial, steps=30)
    return replace(config, **changes)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": TINY_CONV}, r"encoder\.aligned"),
        (
            {"model": replace(PLAIN, quantizer=replace(PLAIN.quantizer, dropout=0.5))},
            r"model\.quantizer\.dropout is 0\.5, there it would be 0\.0",
        ),
        ({"optimizer": Optimizer(schedule="cosine", warmup_steps=3)}, "cosine schedule with 3 warm-up steps"),
        ({"optimizer": Optimizer(damping=0.1)}, r"optimizer\.damping is 0\.1, there it would be 0\.0"),
        ({"data": Data(crop_samples=400, context_samples=200)}, r"data\.context_samples is 200"),
        ({"data": Data(crop_samples=400, noise=("street",))}, r"data\.noise is \['street'\]"),
        ({"data": Data(crop_samples=400, augmentation=Augmentation(equalizer_db=6.0))}, "augmentation"),
        ({"losses": Losses(Mel((256,), (64,), (256,), (20,), density=True))}, r"losses\.mel\.density is True"),
        ({"losses": Losses(error_weight=1.0)}, r"losses\.error_weight is 1\.0"),
        ({"losses": Losses(Mel((256, 64), (64, 32), (256, 64), (20, 10)))}, r"losses\.mel\.bands is \[20, 10\]"),
        ({"losses": Losses(Mel(log_base=3.0))}, "log_base must be null, 2 or 10"),
        ({"generator_start_step": 4}, "generator_start_step is 4"),
        ({"trained": ("decoder",)}, r"trained is \['decoder'\]"),
        ({"adversarial": Adversarial(0, SMALL, trained=("encoder", "decoder"))}, r"adversarial\.trained is"),
        ({"adversarial": Adversarial(0, Discriminators(stft=ComplexStft()))}, "discriminators"),
        ({"adversarial": Adversarial(0, Discriminators(MultiScale(norm="weight")))}, r"scale\.norm is weight"),
        ({"precision": "bfloat16"}, "precision is bfloat16"),
    ],
)
def test_what_the_published_program_would_not_do(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    """A run is exported only where PyTorch would go on as adjax would: everything else is named."""
    check_exportable(plain_run(), tmp_path)
    with pytest.raises(AdjaxError, match=reason):
        check_exportable(plain_run(**change), tmp_path)


# ---------------------------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder_folder(tmp_path_factory.mktemp("encoder"))


@pytest.mark.parametrize("case", ["train_denoise", pytest.param("train_vocoder", marks=pytest.mark.slow)])
def test_there_and_back_bit_for_bit(
    case: str, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights, statistics, moments, counts and steps are in the run as in the checkpoint; the export is the original's
    tree again, and its `config.yml` says the same training."""
    folder, steps = FULL[case]
    checkpoint = folder / f"checkpoint-{steps}steps.pkl"
    run, out, vocoder = tmp_path / "run", tmp_path / "out", case == "train_vocoder"
    command = ["import-torch", "--training", str(checkpoint), str(run), "--name", "golden"]
    assert main([*command, *(["--encoder", str(encoder)] if vocoder else [])]) == 0
    assert f"at step {steps} of" in capsys.readouterr().out
    found, config, state = import_training(checkpoint), loop.read_run(run), state_of(run)
    assert (int(state.step), config.model.name) == (steps, "golden")
    assert_same({k: state.params[k] for k in found.generator.variables["params"]}, found.generator.variables["params"])
    assert_same(state.discriminators, found.discriminator.variables)
    adam, schedule = state.optimizer
    for part, link in adam.items():
        assert_same([link.mu, link.nu], [found.generator.mu[part], found.generator.nu[part]])
        assert {int(n) for n in jax.tree.leaves(found.generator.count[part])} == {int(link.count)}
    assert int(schedule.count) == found.generator.updates
    if vocoder:
        assert set(adam) == {"decoder"}
        books = read_checkpoint(encoder)["model"]["generator"]
        average = books["quantizer.codebook.layers.1.embed_avg"]
        assert np.array_equal(state.codebooks.embed_avg[1], average.T)
        assert_same(state.stats, found.generator.variables["stats"])
    assert main(["export-torch", str(run), str(out)]) == 0
    exported = Path(capsys.readouterr().out.split()[-1])
    assert exported == (out / "vocoder" if vocoder else out) / checkpoint.name
    assert_same(read_checkpoint(exported), read_checkpoint(checkpoint))
    values = Values(document := load_yaml(exported.parent / "config.yml"))
    optimizers = read_optimizer(values, "generator"), read_optimizer(values, "discriminator")
    networks = config.model, config.adversarial.discriminators  # type: ignore
    again = parse(out, values, lambda: read_training(values, document["train_mode"], *networks, optimizers))
    assert again == config
    if vocoder:
        analyzer = read_checkpoint(out / "autoencoder" / checkpoint.name)["model"]["generator"]
        kept = [key for key in books if not key.startswith("decoder.")]
        assert_same({k: analyzer[k] for k in kept}, {k: books[k] for k in kept})


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        *("train_denoise", "train_vocoder"),
        *("train_autoencoder", "train_autoencoder_unfrozen", "train_autoencoder_univ"),
    ],
)
def test_golden_runs_by_way_of_both_programs(
    case: str, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A published run, carried from PyTorch to adjax, after some steps to PyTorch's format and back, and finished:
    every logged loss and the end are the published ones, so nothing is lost or counted anew on either way."""
    given = arrays(case, "batches.npz")
    pairs = zip(*(np.moveaxis(given[name], 2, -1) for name in sorted(given, reverse=True)), strict=True)
    batches = [batch if len(batch) > 1 else batch[0] for batch in pairs]
    monkeypatch.setattr(loop, "open_corpus", lambda config: Corpus(None, batches, None))
    monkeypatch.setattr(loop.data, "batches", lambda crops, first=0: iter(crops[first:]))
    another = encoder if case == "train_vocoder" else None
    checkpoint = first_checkpoint(case, tmp_path / "first")
    wanted, records = json.loads((GOLDEN / case / "losses.json").read_text()), []
    half = {"train_vocoder": 4}.get(case, (len(wanted) + 1) // 2)
    run = tmp_path
    for steps in (half, len(wanted)):
        run = tmp_path / f"run{steps}"
        import_run(checkpoint, run, another)
        config = replace(loop.read_run(run), steps=steps, parallel="jit", log_every=1)
        loop.train(config, run, resume=True)
        records += [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        checkpoint = export_run(run, tmp_path / f"torch{steps}")[-1]
    assert checkpoint.name == f"checkpoint-{len(wanted)}steps.pkl"
    for logged, losses in zip((r for r in records if "steps_per_second" in r), wanted, strict=True):
        for name, value in losses.items():
            np.testing.assert_allclose(logged[name], value, rtol=1e-4, err_msg=f"{name} of step {logged['step']}")
    path = config_folder(case) / "config.yml"
    rows = (
        vocoder_rows((v := read_generator(path, case)).decoder, v.dim)  # type: ignore
        if case == "train_vocoder"
        else autoencoder_rows(read_config(path, case))
    )
    ends = full_ends(case) if case in FULL else arrays(case, "end.npz")
    rounded = {"train_vocoder": 2 * 2e-4 * 3, "train_autoencoder_univ": 2 * 1e-4 * 2 * 3}.get(case, 0.0)
    assert_ends(networks(state_of(run), rows, discriminator_rows(discriminators_of(path))), ends, rounded)


def advanced(config: TrainConfig, step: int) -> TrainState:
    """A state in which no two parts were updated equally often, of random numbers."""
    crop = config.data.crop_samples
    discriminators = fill_discriminators(config.adversarial.discriminators, crop) if config.adversarial else None
    shapes = jax.eval_shape(lambda: from_variables(config, fill(config.model), discriminators, make_optimizers(config)))
    rng = np.random.default_rng(1)
    state = jax.tree.map(
        lambda x: (
            rng.standard_normal(x.shape).astype(x.dtype) if x.dtype == np.float32 else np.int32(rng.integers(1, 20))
        ),
        shapes,
    )
    return state._replace(step=np.int32(step))


def save(run: Path, config: TrainConfig, state: TrainState) -> None:
    run.mkdir()
    (run / "config.json").write_text(to_json(config))
    with Checkpoints(run / "checkpoints") as checkpoints:
        checkpoints.save(int(state.step), *items(state), meta={"config": to_dict(config)}, wait=True)


def test_runs_begun_here(tmp_path: Path) -> None:
    """adjax's own run goes to PyTorch and comes back with the same state and a configuration of the same training."""
    univ = Discriminators(None, MultiResolution((64,), (16,), (32,), 2), period=SMALL.period)
    config = plain_run(adversarial=replace(plain_run().adversarial, discriminators=univ))  # type: ignore
    state = advanced(config, 12)
    save(tmp_path / "run", config, state)
    with pytest.raises(AdjaxError, match="no checkpoint of step 3; it has 12"):
        export_run(tmp_path / "run", tmp_path / "torch", 3)
    (checkpoint,) = export_run(tmp_path / "run", tmp_path / "torch", 12)
    again = import_run(checkpoint, tmp_path / "again", name="plain").config
    ordered = replace(config.optimizer, milestones=(2, 9))
    model = replace(config.model, licence=again.model.licence, source=again.model.source)
    assert again == replace(config, model=model, optimizer=ordered)
    assert_same_states(state_of(tmp_path / "again"), state)


@pytest.mark.slow
def test_runs_without_discriminators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published program wants discriminators: they are there, untrained, and never start."""
    monkeypatch.setattr(torch_runs, "UNTRAINED", Discriminators(None, MultiResolution((64,), (16,), (32,), 1)))
    random = fill_discriminators(torch_runs.UNTRAINED, 400)
    monkeypatch.setattr(torch_runs.Discriminators, "init", lambda *_: random)
    config = plain_run(adversarial=None)
    save(tmp_path / "run", config, state := advanced(config, 3))
    (checkpoint,) = export_run(tmp_path / "run", tmp_path / "torch")
    found = import_training(checkpoint)
    assert found.discriminator.updates == 0
    assert yaml.safe_load((tmp_path / "torch" / "config.yml").read_text())["start_steps"]["discriminator"] == NEVER
    assert_same(found.generator.variables["params"], state.params)
    assert np.any(found.discriminator.variables["params"]["period"]["discriminators_0"]["convs_0"]["v"])


# -------------------------------------------------------------------------------------------------------------- errors


def changed(tmp_path: Path, case: str, change: Callable[[dict[str, Any]], object]) -> Path:
    folder, steps = FULL[case]
    tree = read_checkpoint(folder / f"checkpoint-{steps}steps.pkl")
    change(tree)
    write_checkpoint(tmp_path / "changed.pkl", tree)
    (tmp_path / "config.yml").write_bytes((folder / "config.yml").read_bytes())
    return tmp_path / "changed.pkl"


def test_what_cannot_be_imported(encoder: Path, tmp_path: Path) -> None:
    """One line each, and no run is left behind that `adjax train` could take for a whole one."""
    vocoder, denoise = (folder / f"checkpoint-{steps}steps.pkl" for folder, steps in FULL.values())
    run = tmp_path / "run"

    def refused(reason: str, checkpoint: Path, *arguments: Any) -> None:
        with pytest.raises(AdjaxError, match=reason):
            import_run(checkpoint, run, *arguments)
        assert not run.exists()

    refused("name their checkpoint with --encoder", vocoder)
    refused("only a vocoder takes", denoise, encoder)
    refused("holds no encoder|vocoder's", vocoder, vocoder)

    def halve(tree: dict[str, Any]) -> None:
        tree["optimizer"]["generator"]["param_groups"][0]["lr"] = 5e-5

    refused("5e-05 after 3 updates, but its schedule comes to 0.0001", changed(tmp_path, "train_denoise", halve))

    def count(tree: dict[str, Any]) -> None:
        tree["optimizer"]["generator"]["state"][0]["step"] = np.array(2, np.float32)

    refused(r"its encoder were updated \[2, 3\] times", changed(tmp_path, "train_denoise", count))
    refused("steps must be at most", changed(tmp_path, "train_denoise", lambda tree: tree.update(steps=1 << 40)))
    path = tmp_path / "changed.pkl"
    path.write_bytes(denoise.read_bytes()[:100_000])
    refused("changed.pkl", path)
    run.mkdir()
    (run / "config.json").write_text("{}")
    with pytest.raises(AdjaxError, match="holds a run or a model already"):
        import_run(denoise, run)


def test_commands_say_what_does_not_go_together(
    tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in (["--decoder", "d"], ["--stats", "s"]):
        with pytest.raises(SystemExit) as stop:
            main(["import-torch", "--training", "t", *options, str(tmp_path)])
        assert stop.value.code == 2
        assert "--training takes neither" in capsys.readouterr().err
    assert main(["export-torch", tiny_model, str(tmp_path / "out"), "--at", "3"]) == 1
    assert "--at goes with a run's folder" in capsys.readouterr().err
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(to_json(plain_run()))
    assert main(["export-torch", str(tmp_path), str(tmp_path / "out"), "--steps", "3"]) == 1
    assert "--steps goes with a model's folder" in capsys.readouterr().err
    assert main(["export-torch", str(tmp_path), str(tmp_path / "out")]) == 1
    assert "has no complete checkpoint yet" in capsys.readouterr().err


@pytest.mark.torch
def test_torch_goes_on_from_a_run(tmp_path: Path) -> None:
    """PyTorch's restricted loader opens what a run was exported to, and its own Adam and scheduler take the states."""
    torch = pytest.importorskip("torch")
    save(tmp_path / "run", config := plain_run(), advanced(config, 12))
    (checkpoint,) = export_run(tmp_path / "run", tmp_path / "torch")
    tree = torch.load(checkpoint, weights_only=True)
    assert tree["steps"] == 12
    for name, buffers in (("generator", ("pad_buffer", "embed", "embed_avg", "cluster_size")), ("discriminator", ())):
        assert isinstance(tree["model"][name], OrderedDict)
        tensors = [v for k, v in tree["model"][name].items() if k.split(".")[-1] not in buffers]
        parameters = [torch.nn.Parameter(v) for v in tensors]
        adam = torch.optim.Adam(parameters)
        schedule = torch.optim.lr_scheduler.MultiStepLR(adam, [1])
        adam.load_state_dict(tree["optimizer"][name])
        schedule.load_state_dict(tree["scheduler"][name])
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        adam.step()
        schedule.step()
