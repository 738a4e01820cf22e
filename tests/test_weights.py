"""Model folders: what is written is read back, and what is damaged is refused with its reason."""

from __future__ import annotations

import gzip
import re
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from adjax import weights, zoo
from adjax.errors import AdjaxError
from tests.conftest import TINY_SPECTRAL, fill

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return weights.save_model(tmp_path / "model", TINY_SPECTRAL, fill(TINY_SPECTRAL))


def test_round_trip(folder: Path) -> None:
    """Configuration and every array, bit for bit in float32."""
    config, variables = weights.load_model(folder)
    assert config == TINY_SPECTRAL
    wanted = weights.flatten(fill(TINY_SPECTRAL))
    actual = weights.flatten(variables)
    assert actual.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(actual[name], array)


def test_half_precision_halves_the_file(tmp_path: Path, folder: Path) -> None:
    """Arrays come back as float32, rounded to float16."""
    half = weights.save_model(tmp_path / "half", TINY_SPECTRAL, fill(TINY_SPECTRAL), "float16")
    sizes = [(f / weights.WEIGHTS_FILE).stat().st_size for f in (half, folder)]
    assert sizes[0] < 0.8 * sizes[1]
    array = weights.flatten(weights.load_model(half)[1])["params/projector/kernel"]
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, array.astype(np.float16))


@pytest.mark.parametrize("kernel", [0.01, 300.0, 0.0])
def test_int8_kernels(tmp_path: Path, kernel: float) -> None:
    """Each within half a step, 1/127 of its output channel's largest; all else as in float16; what was saved stays."""
    wanted = fill(TINY_SPECTRAL)
    wanted["params"]["projector"]["kernel"] *= kernel
    folder = weights.save_model(tmp_path / "small", TINY_SPECTRAL, wanted, "int8")
    config, tree = weights.load_model(folder)
    flat, again = weights.flatten(tree), weights.save_model(tmp_path / "again", config, tree, "int8")
    for name, array in weights.flatten(wanted).items():
        if name.endswith("kernel"):
            step = abs(array).max(axis=tuple(range(array.ndim - 1))) / 127
            assert (abs(flat[name] - array) <= 0.501 * step).all()
        else:
            np.testing.assert_array_equal(flat[name], array.astype(np.float16))
    np.testing.assert_equal(weights.flatten(weights.load_model(again)[1]), flat)


@pytest.mark.parametrize(
    ("storage", "share", "kind"), [("int8", 8 / 127, np.float16), ("sparse-int4", 4 / 7, np.float32)]
)
def test_few_large_weights_stay_as_they_are(tmp_path: Path, storage: str, share: float, kind: type) -> None:
    """A weight of a channel that passes one input on does not make the steps of the others any coarser."""
    wanted = fill(TINY_SPECTRAL)
    kernel = wanted["params"]["projector"]["kernel"]
    kernel[:] = np.random.default_rng(0).uniform(-0.01, 0.01, kernel.shape)
    kernel[1, 2, 3], kernel[0, 0, 5], kernel[2, 7, 5], kernel[..., 4] = 1.2345678, -3.1, 2.9, 0
    kernel[0, 1, 4] = 0.1234567  # alone in its channel
    folder = weights.save_model(tmp_path / "small", TINY_SPECTRAL, wanted, storage)
    actual = weights.flatten(weights.load_model(folder)[1])["params/projector/kernel"]
    factors = np.median(abs(kernel), axis=(0, 2))[:, None] if storage == "sparse-int4" else 1.0
    spread = factors * np.median(abs(kernel / factors), axis=(0, 1)) / 0.6745
    assert (abs(actual - kernel) <= 0.501 * share * spread + 1e-3 * abs(kernel) * (abs(kernel) > 0.1)).all()
    large = abs(kernel) > 0.1
    np.testing.assert_array_equal(actual[large], kernel[large].astype(kind))
    assert (actual[..., 4] != 0).sum() == 1


def test_steps_are_finer_where_an_input_s_weights_are_smaller(tmp_path: Path) -> None:
    """Errors in proportion to each input's weights, a thousandfold apart, whatever the other inputs' are."""
    wanted = fill(TINY_SPECTRAL)
    kernel = wanted["params"]["projector"]["kernel"]
    normal = np.random.default_rng(0).standard_normal(kernel.shape).astype(np.float32)
    kernel[:] = normal * np.geomspace(1e-3, 1, kernel.shape[1])[:, None]
    kernel[:, 3] = 0
    folder = weights.save_model(tmp_path / "small", TINY_SPECTRAL, wanted, "sparse-int4")
    actual = weights.flatten(weights.load_model(folder)[1])["params/projector/kernel"]
    errors = np.sqrt(np.mean((actual - kernel) ** 2, axis=(0, 2)) / np.mean(kernel**2, axis=(0, 2)).clip(1e-30))
    assert errors.max() < 0.3
    assert not actual[:, 3].any()


def test_coarse_steps_take_little_room(tmp_path: Path) -> None:
    """A decoder of random weights at under a third of its float32, beside a sparse encoder that stays as it is."""
    wanted = fill(replace(TINY_SPECTRAL, decoder=replace(TINY_SPECTRAL.decoder, channels=64)))
    for name, array in weights.flatten(wanted["params"]["encoder"]).items():
        if name.endswith("kernel"):
            array[..., 1:] = 0
    config = replace(TINY_SPECTRAL, decoder=replace(TINY_SPECTRAL.decoder, channels=64))
    sizes = {}
    for storage in ("sparse", "sparse-int4"):
        folder = weights.save_model(tmp_path / storage, config, wanted, storage)
        (path,) = folder.glob("model.*")
        sizes[storage] = path.stat().st_size
    assert sizes["sparse-int4"] < 0.3 * sizes["sparse"]
    before, after = (weights.flatten(tree) for tree in (wanted, weights.load_model(tmp_path / "sparse-int4")[1]))
    for name in (name for name in before if name.startswith("params/encoder")):
        np.testing.assert_array_equal(after[name], before[name])


def sparse_model() -> weights.Tree:
    variables = fill(TINY_SPECTRAL)
    for name, array in weights.flatten(variables["params"]).items():
        if name.endswith("kernel"):
            array[..., 1:] = 0
    return variables


def test_zeros_take_no_room(tmp_path: Path) -> None:
    """Kernels come back bit for bit, codebooks rounded to float16; a folder holds one file of weights, the last."""
    wanted, folder = weights.flatten(sparse_model()), tmp_path / "model"
    weights.save_model(folder, TINY_SPECTRAL, sparse_model())
    size = (folder / weights.WEIGHTS_FILE).stat().st_size
    weights.save_model(folder, TINY_SPECTRAL, sparse_model(), "sparse")
    assert (folder / weights.COMPRESSED_FILE).stat().st_size < 0.5 * size
    flat = weights.flatten(weights.load_model(folder)[1])
    assert flat.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(flat[name], array.astype(np.float16) if name.startswith("codebook") else array)
    weights.save_model(folder, TINY_SPECTRAL, sparse_model())
    assert not (folder / weights.COMPRESSED_FILE).exists()
    assert (folder / weights.WEIGHTS_FILE).stat().st_size == size


def test_damaged_compressed_files_are_refused(tmp_path: Path) -> None:
    """Cut off, altered, not compressed at all, or more than the model can hold, which is not read to its end."""
    folder = weights.save_model(tmp_path / "model", TINY_SPECTRAL, sparse_model(), "sparse")
    path = folder / weights.COMPRESSED_FILE
    data = path.read_bytes()
    bomb = gzip.compress(bytes(1 << 26))
    for wrong in (
        b"",
        data[:-9],
        data[:60] + b"\xff" * 8 + data[68:],
        gzip.decompress(data),
        gzip.compress(b"{}"),
        bomb,
    ):
        path.write_bytes(wrong)
        with pytest.raises(AdjaxError, match="damaged"):
            weights.load_model(folder)
    tracemalloc.start()
    with pytest.raises(AdjaxError, match="the most that its configuration may take"):
        weights.load_model(folder)
    assert tracemalloc.get_traced_memory()[1] < 1 << 23
    tracemalloc.stop()


def test_no_configuration_opens_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large a model is described, a compressed file is read up to a fixed size, and none larger is written."""
    folder = weights.save_model(tmp_path / "model", TINY_SPECTRAL, sparse_model(), "sparse")
    monkeypatch.setattr(weights, "_MAX_DECOMPRESSED_BYTES", 1000)
    with pytest.raises(AdjaxError, match="more than 1000 bytes"):
        weights.load_model(folder)
    with pytest.raises(AdjaxError, match="too large for a compressed file"):
        weights.save_model(tmp_path / "other", TINY_SPECTRAL, sparse_model(), "sparse")
    assert not (tmp_path / "other" / weights.CONFIG_FILE).exists()


def test_int8_needs_its_scales(tmp_path: Path) -> None:
    """A missing or misshapen scale is named; so are one without its kernel and integers of another type."""
    folder = weights.save_model(tmp_path / "small", TINY_SPECTRAL, fill(TINY_SPECTRAL), "int8")
    name, path = "params/projector/kernel", folder / weights.WEIGHTS_FILE
    stored = load_file(path)
    for change, message in (
        ({f"{name}.scale": None}, f"'{name}' is int8 and needs '{name}.scale'"),
        ({f"{name}.scale": np.ones(1, np.float32)}, f"'{name}' is int8 and needs"),
        ({f"{name}.scale": stored[f"{name}.scale"] * np.nan}, "not an array of finite numbers"),
        ({f"{name}.inputs": np.ones(1, np.float32)}, f"'{name}.inputs' must be a number for each input channel"),
        ({f"{name}.inputs": np.ones((3, 1), np.float32)}, f"'{name}.inputs' must be a number for each input channel"),
        ({f"{name}.scale": np.full_like(stored[f"{name}.scale"], 3e38)}, "finite numbers, times its scales"),
        ({f"{name}x.inputs": np.ones(1, np.float32)}, f"unknown '{name}x.inputs'"),
        ({name: stored[name][0, 0], f"{name}.scale": np.ones(stored[name].shape[-1], np.float32)}, "kernels alone"),
        ({name: np.array(1, np.int8), f"{name}.scale": np.array(1, np.float32)}, "kernels alone"),
        ({name: stored[name].astype(np.float32)}, f"unknown '{name}.scale'"),
        ({name: stored[name].astype(np.int16)}, f"'{name}' is not an array of finite numbers"),
    ):
        path.write_bytes(save({k: v for k, v in (stored | change).items() if v is not None}))
        with pytest.raises(AdjaxError, match=re.escape(message)):
            weights.load_model(folder)


def test_large_weights_must_have_their_places(tmp_path: Path) -> None:
    """Lists that are missing, of other types or lengths, or that lead out of the kernel, are named."""
    wanted = fill(TINY_SPECTRAL)
    kernel = wanted["params"]["projector"]["kernel"]
    kernel[1, 2, 3] = kernel[2, 7, 5] = 90.0
    folder = weights.save_model(tmp_path / "small", TINY_SPECTRAL, wanted, "int8")
    name, path = "params/projector/kernel", folder / weights.WEIGHTS_FILE
    stored = load_file(path)
    gaps, large = stored[f"{name}.gaps"], stored[f"{name}.large"]
    assert list(np.cumsum(gaps)) == [np.ravel_multi_index(i, kernel.shape) for i in ((1, 2, 3), (2, 7, 5))]
    top = np.full(2, 2**32 - 1, np.uint32)
    for change, message in (
        ({"gaps": None}, "must be lists of equal length, the first uint32"),
        ({"large": None}, "must be lists of equal length"),
        ({"large": large[:1]}, "must be lists of equal length"),
        ({"large": large[:, None], "gaps": gaps[:, None]}, "must be lists of equal length"),
        ({"gaps": gaps.astype(np.int64)}, "must be lists of equal length"),
        ({"gaps": gaps * np.array([1, 0], np.uint32)}, "names a weight twice"),
        ({"gaps": gaps + np.array([0, 3], np.uint32)}, "goes beyond"),
        ({"gaps": top}, "goes beyond"),
        ({"large": large * np.float16(np.inf)}, "not an array of finite numbers"),
        ({"": stored[name].astype(np.float32), "scale": None}, f"'{name}.gaps' is not an array of finite numbers"),
    ):
        changed = {f"{name}.{key}".removesuffix("."): value for key, value in change.items()}
        path.write_bytes(save({k: v for k, v in (stored | changed).items() if v is not None}))
        with pytest.raises(AdjaxError, match=re.escape(message)):
            weights.load_model(folder)


def test_fingerprint_depends_on_what_decides_codes(folder: Path) -> None:
    """Another decoder reads the same bitstream; another encoder or codebook does not."""
    variables = fill(TINY_SPECTRAL)
    mark = weights.fingerprint(TINY_SPECTRAL, variables)
    assert mark == weights.fingerprint(*weights.load_model(folder))
    variables["params"]["decoder"]["expand"]["kernel"] += 1
    assert mark == weights.fingerprint(replace(TINY_SPECTRAL, name="other"), variables)
    for change, same in (({"beams": 3}, True), ({"prediction": 0.5}, False), ({"predicted": 3}, False)):
        other = replace(TINY_SPECTRAL, quantizer=replace(TINY_SPECTRAL.quantizer, **change))
        assert (mark == weights.fingerprint(other, variables)) == same
    variables["codebook"]["quantizer"]["embed"][0, 0, 0] += 1e-3
    assert mark != weights.fingerprint(TINY_SPECTRAL, variables)


def test_damage_is_refused(folder: Path) -> None:
    """Each message names the file and what is wrong; nothing is loaded in part."""
    path = folder / weights.WEIGHTS_FILE
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(AdjaxError, match="damaged"):
        weights.load_model(folder)
    path.write_bytes(b"")
    with pytest.raises(AdjaxError, match="damaged"):
        weights.load_model(folder)
    path.unlink()
    with pytest.raises(AdjaxError, match="no such file"):
        weights.load_model(folder)


def test_misfits_are_refused(tmp_path: Path) -> None:
    """Missing, unknown, misshapen and non-finite arrays, each by its name."""

    def save_with(name: str, array: np.ndarray | None) -> Path:
        flat = weights.flatten(fill(TINY_SPECTRAL))
        flat.pop(name, None)
        if array is not None:
            flat[name] = array
        return weights.save_model(tmp_path / "model", TINY_SPECTRAL, weights.unflatten(flat))

    for name, array, message in (
        ("params/projector/kernel", None, "missing 'params/projector/kernel'"),
        ("params/projector/kernel", np.zeros((1, 2, 3)), "must be"),
        ("params/extra", np.zeros(2), "unknown 'params/extra'"),
        ("params/projector/kernel", np.full((3, 8, 6), np.nan), "finite"),
    ):
        with pytest.raises(AdjaxError, match=message):
            weights.load_model(save_with(name, array))


def test_configurations_are_parsed_strictly(folder: Path) -> None:
    """Unknown keys and absurd values are named; nothing in the file is run."""
    path = folder / weights.CONFIG_FILE
    good = path.read_text()
    for old, new, message in (
        ('"sample_rate_hz"', '"sample_rate"', "did you mean 'sample_rate_hz'"),
        ('"codebooks": 3', '"codebooks": -1', "codebooks must be 1 to 255"),
        ('"type": "SpectralEncoder"', '"type": "os.system"', "must be one of"),
        ("{", "", "not a model's configuration"),
    ):
        path.write_text(good.replace(old, new, 1))
        with pytest.raises(AdjaxError, match=message):
            weights.load_model(folder)


def test_unknown_models_are_told_apart_from_known_ones() -> None:
    """A published model can be imported; a misspelt one exists nowhere."""
    with pytest.raises(AdjaxError, match="import-torch"):
        weights.find_model("symad48")
    with pytest.raises(AdjaxError, match="no model 'nonesuch'"):
        weights.find_model("nonesuch")


def test_published_sizes() -> None:
    """Parameter counts of the paper: encoder 3.81 M, projector 0.10 M, codebooks 0.52 M, symmetric decoder 4.04 M."""
    import jax

    from adjax.models.codec import init

    shapes = jax.eval_shape(lambda: init(zoo.symad48, jax.random.key(0)))
    sizes = {k: sum(x.size for x in jax.tree.leaves(v)) / 1e6 for k, v in shapes["params"].items()}
    sizes["codebook"] = sum(x.size for x in jax.tree.leaves(shapes["codebook"])) / 1e6
    assert {k: round(v, 2) for k, v in sizes.items()} == {
        "encoder": 3.81,
        "projector": 0.10,
        "codebook": 0.52,
        "decoder": 4.04,
    }


def test_rates_of_the_zoo() -> None:
    """Kilobits per second and frames per second of the published table."""
    rates = {m.name: (m.frame_rate_hz, m.bitrate_bps / 1000) for m in zoo.MODELS.values()}
    assert rates["symad48"] == rates["symaad48"] == rates["spectral48"] == (160, 12.8)
    assert rates["symad24"] == rates["spectral24"] == (80, 6.4)
    assert rates["symad48-c16"] == (150, 24)


def test_shipped_models_are_the_zoo_s() -> None:
    """Each folder of checkpoints/ holds the model that it is named after, with finite weights."""
    folders = [path.parent for path in CHECKPOINTS.glob("*/config.json")]
    assert {f.name for f in folders} == {
        "spectral48",
        "spectral48-denoise",
        "spectral24",
        "symad48-transform",
        "symad48-trained",
        "symad48-trained-v2",
    }
    for folder in folders:
        config, tree = weights.load_model(folder)
        known = zoo.MODELS[folder.name]
        assert (config.name, config.encoder, config.decoder) == (known.name, known.encoder, known.decoder)
        assert config.sample_rate_hz == known.sample_rate_hz
        assert all(np.isfinite(array).all() for array in weights.flatten(tree).values())


def test_denoised_codes_decode_with_the_default_model() -> None:
    """Quantizer and decoder of spectral48-denoise are spectral48's to the bit; its encoder is not."""
    (_, denoise), (_, default) = (weights.load_model(CHECKPOINTS / n) for n in ("spectral48-denoise", "spectral48"))
    one, other = weights.flatten(denoise), weights.flatten(default)
    assert one.keys() == other.keys()
    changed = {name.split("/")[1] for name in one if not np.array_equal(one[name], other[name])}
    assert changed == {"encoder", "projector"}


@pytest.mark.parametrize("name", ["symad48-trained", "symad48-trained-v2"])
def test_trained_decoders_take_the_start_s_codes(name: str) -> None:
    """Encoder, projector and codebooks are symad48-transform's to the bit; the decoder is not."""
    (_, trained), (_, start) = (weights.load_model(CHECKPOINTS / n) for n in (name, "symad48-transform"))
    one, other = weights.flatten(trained), weights.flatten(start)
    kept = {key for key in other if not key.startswith("params/decoder/")}
    assert kept == {key for key in one if not key.startswith("params/decoder/")}
    for key in kept:
        np.testing.assert_array_equal(one[key], other[key])
    same = [key for key in one if key not in kept and key in other and np.array_equal(one[key], other[key])]
    assert not [key for key in same if key.endswith("/kernel")]
