"""Training procedures: what is updated when, optimizers of frozen parts, and whole small runs of the configurations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import soundfile

from adjax.cli import main
from adjax.cli.training import read_config
from adjax.config import (
    PARTS,
    Data,
    Discriminators,
    Mel,
    MultiPeriod,
    Optimizer,
    TrainConfig,
    Vocoder,
)
from adjax.errors import AdjaxError
from adjax.train import loop, start, statistics
from adjax.train.state import by_part, clip_by_norm, fresh, learning_rate, make_optimizers
from adjax.train.steps import make_step, phase
from adjax.weights import flatten, load_model
from tests.conftest import TINY_CONV
from tests.test_train_loop import filled, records

CONFIGS = Path(__file__).parent.parent / "configs"
SMALL = Discriminators(scale=None, period=MultiPeriod((3,), channels=2, max_channels=4, strides=(3, 1)))


def configured(name: str) -> TrainConfig:
    return read_config(CONFIGS / f"{name}.py")


# --------------------------------------------------------------------------------------------------------- phases


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda p: p.stem)
def test_every_configuration_resolves(path: Path) -> None:
    """Each file defines a run whose last step trains something, and which its JSON describes as well."""
    config = configured(path.stem)
    last = phase(config, config.steps - 1)
    assert last.trained
    assert last.quantized
    assert last.magnitude
    assert last.adversarial == (config.adversarial is not None)


def test_phases_of_the_published_procedures() -> None:
    """Counted from 0: discriminators from their start, frozen parts from then on; the vocoder one step after them."""
    symad, vocoder, denoise = configured("symad48"), configured("symad48_v1"), configured("symad48_denoise")
    assert phase(symad, 199_999) == (PARTS, False, True, True)
    assert phase(symad, 200_000) == (("decoder",), True, True, True)
    assert phase(configured("symad48_joint"), 200_000) == (PARTS, True, True, True)
    assert [phase(vocoder, k)[:2] for k in range(3)] == [((), False), ((), True), (("decoder",), True)]
    assert phase(denoise, 0) == (("encoder", "projector"), False, True, True)
    assert [phase(configured("soundstream48"), k).quantized for k in range(2)] == [False, True]


def test_the_magnitude_loss_enters_at_its_step() -> None:
    """One configuration makes the default model: the waveform first, then the magnitudes of single bins."""
    config = configured("spectral48")
    start = config.losses.magnitude_start_step
    assert [phase(config, k).magnitude for k in (0, start - 1, start)] == [False, False, True]
    assert phase(configured("spectral48_denoise"), 0).magnitude, "codebooks and decoder have come that far"
    optimizers = make_optimizers(config)
    state = jax.eval_shape(lambda: fresh(config, optimizers))
    batch = jax.ShapeDtypeStruct((1, config.data.context_samples + config.data.crop_samples, 1), jnp.float32)
    logged = [
        jax.eval_shape(make_step(config, optimizers, None, phase(config, k)), state, batch)[1]
        for k in (start - 1, start)
    ]
    assert set(logged[1]) - set(logged[0]) == {"magnitude_loss"}


# ----------------------------------------------------------------------------------------------------- optimizers


def test_damping_slows_weights_with_large_gradients_in_proportion() -> None:
    config = configured("spectral48")
    plain, damped = (
        make_optimizers(replace(config, optimizer=Optimizer(betas=(0.5, 0.9), damping=limit))).generator
        for limit in (0.0, 0.5)
    )
    params = {"decoder": jnp.zeros(3)}
    state, other = plain.init(params), damped.init(params)
    for gradient in ([0.1, 5.0, 0.0], [0.2, -10.0, 0.0]):
        gradients = {"decoder": jnp.array(gradient)}
        adams, state = plain.update(gradients, state)
        updates, other = damped.update(gradients, other)
    rms = np.sqrt((0.1 * 0.9 * 5.0**2 + 0.1 * 10.0**2) / (1 - 0.9**2))
    factor = np.array([1.0, 0.5 / rms, 1.0])
    np.testing.assert_allclose(updates["decoder"], adams["decoder"] * factor, rtol=1e-5)


def test_a_part_without_gradient_leaves_adam() -> None:
    """Its moments and its step count stay, so that Adam's bias correction goes on from there (as in PyTorch)."""
    adam = by_part(optax.scale_by_adam())
    params = {"a": jnp.ones(2), "b": {"c": jnp.ones(3)}}
    state = adam.init(params)
    _, state = adam.update(params, state, params)
    updates, later = adam.update({"a": jnp.ones(2)}, state, {"a": params["a"]})
    assert updates.keys() == {"a"}
    assert (int(later["a"].count), int(later["b"].count)) == (2, 1)
    np.testing.assert_array_equal(later["b"].mu["c"], state["b"].mu["c"])


def test_clipping_takes_the_norm_over_what_is_trained() -> None:
    """A vector of norm 5 becomes one of norm 1, one of norm 0.5 stays."""
    clip = clip_by_norm(1.0)
    clipped, _ = clip.update({"a": jnp.array([3.0]), "b": jnp.array([4.0])}, optax.EmptyState())
    np.testing.assert_allclose([clipped["a"][0], clipped["b"][0]], [0.6, 0.8], rtol=1e-5)
    kept, _ = clip.update({"a": jnp.array([0.5])}, optax.EmptyState())
    np.testing.assert_array_equal(kept["a"], [0.5])


def test_milestones() -> None:
    """The rate falls with the update whose number is the milestone, twice for one that is given twice."""
    rate = learning_rate(Optimizer(1.0, schedule="steps", milestones=(2, 3, 3)), 10)
    assert [float(rate(k)) for k in range(5)] == [1.0, 1.0, 0.5, 0.125, 0.125]  # type: ignore


# ----------------------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "KMEANS_LATENTS", 100)
        patch.setattr(start, "fresh", filled)
        yield


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    for i in range(3):
        soundfile.write(folder / f"{i}.wav", 0.1 * rng.standard_normal(3000), 8000)
    return str(folder)


def tiny(name: str, audio: str, **changes: Any) -> TrainConfig:
    """A configuration on a tiny model: what it trains, when and with which losses stays."""
    config = configured(name)
    quantizer = replace(config.model.quantizer, codebooks=3, codebook_size=16, dim=6)
    decoder: Any = TINY_CONV.decoder
    if isinstance(config.model.decoder, Vocoder):
        decoder = replace(config.model.decoder, channels=8, strides=(5, 4), block_dilations=((1,),))
    model = replace(config.model, sample_rate_hz=8000, encoder=TINY_CONV.encoder, quantizer=quantizer, decoder=decoder)
    adversarial = config.adversarial and replace(config.adversarial, discriminators=SMALL)
    if adversarial and adversarial.start_step > 1:
        adversarial = replace(adversarial, start_step=1)
    losses = config.losses
    if losses.mel_weight:
        losses = replace(losses, mel=Mel((128,), (64,), (128,), (12,)))
    losses = replace(losses, spectral=replace(losses.spectral, win_lengths=(64, 128), bands=8))
    return replace(
        config,
        model=model,
        data=Data((audio,), batch_size=2, crop_samples=400, context_samples=40),
        losses=losses,
        adversarial=adversarial,
        parallel="jit",
        log_every=1,
        save_every=1,
        **{"steps": 3, **changes},
    )


def moved(before: Path, after: Path) -> set[str]:
    """The parts of a model that differ between two folders; `codebook` stands for the quantizer's."""
    first, second = (flatten(load_model(folder)[1]) for folder in (before, after))
    names = [name for name in second if name in first and not np.array_equal(first[name], second[name])]
    return {name.split("/")[1] if name.startswith("params") else name.split("/")[0] for name in names}


@pytest.fixture(scope="module")
def symad(audio: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of symad48's procedure: one metric step, two adversarial ones."""
    run_dir = tmp_path_factory.mktemp("runs") / "symad"
    loop.train(tiny("symad48", audio), run_dir)
    return run_dir


def test_encoder_and_codebooks_stay_from_the_adversarial_start_on(symad: Path, tmp_path: Path) -> None:
    """Codes must not change while discriminators are trained, so that vocoders can be trained on them."""
    with loop.Checkpoints(symad / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 3]
    loop.export(symad, tmp_path / "2", step=2)
    assert moved(tmp_path / "2", symad / "model") == {"decoder"}
    first, second, _ = records(symad)
    assert "train/discriminator_loss" not in first
    assert "discriminator_learning_rate" not in first
    assert {"train/real_loss", "train/fake_loss", "train/adversarial_loss", "train/feature_matching_loss"} <= set(
        second
    )
    assert second["discriminator_learning_rate"] == pytest.approx(2e-4)
    terms = [second[f"train/{name}"] for name in ("mel_loss", "vqloss", "adversarial_loss")]
    assert second["train/generator_loss"] == pytest.approx(sum(terms), rel=1e-5)


def test_resuming_an_adversarial_run_is_exact(symad: Path, audio: str, tmp_path: Path) -> None:
    """Discriminators and both optimizers come back: two steps and one more are three."""
    config = tiny("symad48", audio)
    loop.train(replace(config, steps=2), tmp_path)
    with pytest.raises(AdjaxError, match=r"other adversarial\.discriminators"):
        loop.train(replace(config, adversarial=None), tmp_path, resume=True)
    with pytest.raises(AdjaxError, match="started to train decoder, encoder, projector"):
        loop.train(replace(config, trained=("decoder",)), tmp_path, resume=True)
    loop.train(config, tmp_path, resume=True)
    assert records(tmp_path) == records(symad)
    assert not moved(tmp_path / "model", symad / "model")


@pytest.mark.slow
def test_an_adversarial_run_resumes_on_more_devices(symad: Path, audio: str, tmp_path: Path) -> None:
    """A checkpoint is one logical copy: two devices go on from where one stopped, to the same losses."""
    config = tiny("symad48", audio)
    loop.train(replace(config, steps=2), tmp_path)
    devices = jax.devices()[:2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: devices)
        loop.train(replace(config, parallel="pmap"), tmp_path, resume=True)
    wanted = records(symad)[-1]
    for name, value in records(tmp_path)[-1].items():
        assert value == pytest.approx(wanted[name], rel=1e-3), name


@pytest.mark.slow
def test_a_vocoder_on_a_frozen_encoder(symad: Path, audio: str, tmp_path: Path, caplog: Any) -> None:
    """Statistics, then one idle step, one of the discriminators alone, and those of both, as published."""
    config = tiny("symad48_v2", audio, init_from=str(symad / "model"), steps=4)
    with pytest.raises(AdjaxError, match="adjax statistics"):
        loop.train(config, tmp_path / "run")
    with pytest.raises(AdjaxError, match="never trains its encoder and projector and quantizer, so init_from must"):
        loop.train(replace(config, init_from=""), tmp_path / "run")
    table = tmp_path / "stats.npy"
    assert main(["statistics", str(symad / "model"), audio, "--output", str(table)]) == 0
    with caplog.at_level("INFO"):
        loop.train(replace(config, statistics=str(table)), tmp_path / "run")
    assert "weights of encoder, projector, quantizer; decoder differ" in caplog.text
    lines = records(tmp_path / "run")
    kinds = [{n for n in ("train/generator_loss", "train/discriminator_loss") if n in line} for line in lines]
    assert [len(k) for k in kinds] == [0, 1, 2, 2]
    model, tree = load_model(tmp_path / "run" / "model")
    np.testing.assert_array_equal(tree["stats"]["decoder"]["scale"], np.load(table)[1])
    assert model.decoder == config.model.decoder
    params, codebook = tree["params"], tree["codebook"]
    encoder = load_model(symad / "model")[1]
    for mine, theirs in ((params["encoder"], encoder["params"]["encoder"]), (codebook, encoder["codebook"])):
        jax.tree.map(np.testing.assert_array_equal, mine, theirs)
    other = replace(tiny("symad48", audio), statistics=str(table))
    with pytest.raises(AdjaxError, match="takes no statistics"):
        loop.train(other, tmp_path / "other")


def test_denoising_leaves_the_decoder(symad: Path, audio: str, tmp_path: Path) -> None:
    """With noise mixed in on the fly, encoder and projector move; codes' meaning and decoder stay."""
    config = tiny("symad48_denoise", audio, init_from=str(symad / "model"))
    config = replace(config, data=replace(config.data, noise=(audio,), validation=(audio,)), evaluate_every=3)
    loop.train(config, tmp_path)
    assert moved(symad / "model", tmp_path / "model") == {"encoder", "projector"}
    assert any("validation/mel_loss" in line for line in records(tmp_path))


@pytest.mark.slow
def test_soundstream_trains_everything_from_the_start(audio: str, tmp_path: Path) -> None:
    """Unquantized first step, k-means, dropout, hinge losses, joint training; all parts move between later steps."""
    loop.train(tiny("soundstream48", audio), tmp_path)
    loop.export(tmp_path, tmp_path / "2", step=2)
    assert moved(tmp_path / "2", tmp_path / "model") == {"encoder", "projector", "decoder", "codebook"}
    first, second, _ = records(tmp_path)
    assert "train/vqloss" not in first
    assert {"train/vqloss", "train/ppl_0", "train/spectral_loss", "train/real_loss"} <= second.keys()


def test_no_part_of_another_model_fits(symad: Path, audio: str, tmp_path: Path) -> None:
    config = tiny("symad48", audio, init_from=str(symad / "model"))
    model = replace(
        config.model, encoder=replace(TINY_CONV.encoder, channels=6), quantizer=replace(config.model.quantizer, dim=8)
    )
    with pytest.raises(AdjaxError, match=r"none of its parts .* is configured as"):
        loop.train(replace(config, model=model), tmp_path)


def test_fresh_networks(audio: str) -> None:
    """Initialisers give what the steps take: both networks, and optimizers of those parts that the run ever trains."""
    config = tiny("symad48_v2", audio)
    state = jax.eval_shape(lambda: fresh(config, make_optimizers(config)))
    wanted = jax.eval_shape(lambda: filled(config, make_optimizers(config)))
    jax.tree.map(lambda x, y: np.testing.assert_equal((x.shape, x.dtype), (y.shape, y.dtype)), state, wanted)
    moments = json.dumps(sorted(flatten(next(s for s in state.optimizer if isinstance(s, dict)))))
    assert moments == '["decoder"]'
