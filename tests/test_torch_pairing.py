"""Pairings of a released encoder with a vocoder, and the vocoder's statistics, from files that nobody vouches for."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adjax.cli import main
from adjax.config import Vocoder
from adjax.errors import AdjaxError
from adjax.latent_statistics import read_latent_statistics
from adjax.torch_port import (
    VocoderModel,
    export_checkpoint,
    export_model,
    from_torch,
    import_checkpoint,
    import_generator,
    import_pairing,
    read_checkpoint,
    vocoder_rows,
)
from tests.torch_files import assert_same_arrays, counted

GOLDEN = Path(__file__).parent / "golden"


def golden(case: str) -> Path:
    return GOLDEN / case / "checkpoint-10steps.pkl"


# ---------------------------------------------------------------------------------------------------------- statistics


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def claiming(shape: str, descr: str = "'<f4'") -> bytes:
    """A .npy file of a claimed shape and type, with 64 bytes of data."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)


GOOD = np.array([[0.5, -0.25], [1.0, 2.0]])


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_statistics(dtype: type, tmp_path: Path) -> None:
    for table in (GOOD.astype(dtype), np.asfortranarray(GOOD.astype(dtype))):
        (tmp_path / "s.npy").write_bytes(npy(table))
        expected = {"mean": np.float32([0.5, -0.25]), "scale": np.float32([1, 2])}
        assert_same_arrays(read_latent_statistics(tmp_path / "s.npy", 2), expected)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (npy(GOOD.T[:1]), r"\(2, 2\)"),
        (npy(GOOD.astype(np.int32)), "floats"),
        (npy(GOOD * [[1], [0]]), "positive"),
        (npy(GOOD * np.nan), "finite"),
        (npy(GOOD * 1e300), "finite"),
        (npy(GOOD)[:-1], "damaged"),
        (npy(GOOD)[:40], "damaged"),
        (b"PK\x03\x04" + bytes(100), "not a .npy"),
        (b"", "not a .npy"),
        (pickle.dumps(GOOD), "not a .npy"),
        (claiming("(1099511627776, 1099511627776)"), "floats of shape"),
        (claiming("(2, 2)", "'|O'"), "floats of shape"),
        (claiming("(2, 2)", "[('a', '<f4')]"), "floats of shape"),
        (claiming("(2, -2)"), "floats of shape"),
        (claiming("(" * 60_000), "damaged"),
        (claiming("__import__('os').getcwd()"), "damaged"),
        (npy(GOOD) + bytes(1 << 20), "bytes"),
    ],
)
def test_hostile_statistics(data: bytes, reason: str, tmp_path: Path) -> None:
    """The header is read before anything is allocated or unpickled, so all it can do is to be wrong."""
    path = tmp_path / "s.npy"
    path.write_bytes(data)
    with pytest.raises(AdjaxError, match=reason) as caught:
        read_latent_statistics(path, 2)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_statistics_take_the_place_of_the_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(AdjaxError, match="cannot be read"):
        read_latent_statistics(tmp_path, 2)
    table = np.arange(1, 17, dtype=np.float32).reshape(2, 8)
    (tmp_path / "s.npy").write_bytes(npy(table))
    model, variables, _ = import_generator(golden("vocoder_v2"), tmp_path / "s.npy")
    np.testing.assert_array_equal(variables["stats"]["decoder"]["scale"], table[1])
    # Nor need the checkpoint have any: a vocoder trained without is then one with.
    assert isinstance(model, VocoderModel)
    bare = model._replace(decoder=replace(model.decoder, statistics=False))
    exported = export_checkpoint(bare, {"params": variables["params"]}, tmp_path / "bare")
    again = import_generator(exported, tmp_path / "s.npy")
    assert again.model.decoder == model.decoder
    assert_same_arrays(again.variables, variables)


# ------------------------------------------------------------------------------------------------------------ pairings


def test_pairing(tmp_path: Path) -> None:
    """The encoder's and the vocoder's tensors meet in one model, which splits again into two folders of the released
    form. The autoencoder's decoder is lost on the way: zeros take its place, and are not taken for a decoder."""
    config, variables = import_pairing(golden("symad"), golden("vocoder_v1"), name="pair")
    alone, vocoder = import_checkpoint(golden("symad")), import_generator(golden("vocoder_v1"))
    assert (config.name, config.encoder, config.decoder) == ("pair", alone[0].encoder, vocoder.model.decoder)
    assert config.licence == alone[0].licence
    assert_same_arrays(variables["params"]["encoder"], alone[1]["params"]["encoder"])
    assert_same_arrays(variables["params"]["decoder"], vocoder.variables["params"]["decoder"])
    assert_same_arrays(variables["stats"], vocoder.variables["stats"])

    ours, theirs = export_model(config, variables, tmp_path, 7)
    assert (ours, theirs) == tuple(tmp_path / f / "checkpoint-7steps.pkl" for f in ("autoencoder", "vocoder"))
    state, released = (read_checkpoint(p)["model"]["generator"] for p in (ours, golden("symad")))
    assert list(state) == list(released)
    for key, array in released.items():
        assert state[key].shape == array.shape
        assert np.array_equal(state[key], np.zeros_like(array) if key.startswith("decoder.") else array), key
    assert_same_arrays(*(read_checkpoint(p)["model"]["generator"] for p in (theirs, golden("vocoder_v1"))))

    again = import_pairing(ours, theirs, name="pair")
    assert replace(again[0], source="") == replace(config, source="")
    assert_same_arrays(again[1], variables)
    with pytest.raises(AdjaxError, match="symmetric decoder is zeros"):
        import_pairing(ours)
    with pytest.raises(AdjaxError, match="symmetric decoder is zeros"):
        import_pairing(golden("symad"), ours)


def test_zero_decoder_of_normed_layers(tmp_path: Path) -> None:
    """w = g v / |v|: were v zero too, PyTorch would divide zero by zero."""
    vocoder = import_generator(golden("vocoder_v2"))
    config, variables = import_pairing(golden("symaad"))
    config = replace(config, decoder=vocoder.model.decoder)
    variables["params"]["decoder"] = vocoder.variables["params"]["decoder"]
    ours, _ = export_model(config, {**variables, "stats": vocoder.variables["stats"]}, tmp_path)
    state = read_checkpoint(ours)["model"]["generator"]
    decoder = {k: v for k, v in state.items() if k.startswith("decoder.")}
    assert decoder.keys() == {k for k in read_checkpoint(golden("symaad"))["model"]["generator"] if "decoder." in k}
    assert all((v == k.endswith("weight_v")).all() for k, v in decoder.items())


def test_pairings_that_do_not_fit(tmp_path: Path) -> None:
    for encoder, decoder, reason in (
        ("symad_hop320", "vocoder_v1", "hop of 320 and 300 samples"),
        ("symad_stereo", "vocoder_v1", "channel count of 2 and 1"),
        ("symad_noncausal", "vocoder_v1", "one is causal"),
        ("symad", "symaad", "other codebooks"),
        ("vocoder_v1", "vocoder_v1", "is a vocoder's"),
    ):
        with pytest.raises(AdjaxError, match=reason) as caught:
            import_pairing(golden(encoder), golden(decoder))
        assert decoder in str(caught.value)
    with pytest.raises(AdjaxError, match="--decoder"):
        import_pairing(golden("symad"), statistics=GOLDEN / "vocoder_v1" / "stats.npy")
    with pytest.raises(AdjaxError, match="holds an autoencoder"):
        import_pairing(golden("symad"), golden("symad"), GOLDEN / "vocoder_v1" / "stats.npy")
    model = VocoderModel("v", 24000, 6, Vocoder(channels=16))
    rows = vocoder_rows(model.decoder, 6)
    exported = export_checkpoint(model, from_torch(rows, counted(rows)), tmp_path)
    with pytest.raises(AdjaxError, match=r"sample rate of 48000 and 24000 Hz; code size of 8 and 6 channels"):
        import_pairing(golden("symad"), exported)


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The pairing lives through a model folder, whose shapes are checked against the model's own; what is said of the
    zeros, the user must see."""
    encoder, vocoder, stats = golden("symad"), golden("vocoder_v1"), tmp_path / "s.npy"
    stats.write_bytes(npy(np.arange(1, 17, dtype=np.float32).reshape(2, 8)))
    model, out = tmp_path / "model", tmp_path / "out"
    command = ["import-torch", "--encoder", str(encoder), "--decoder", str(vocoder), "--stats", str(stats), str(model)]
    assert main(command) == 0
    assert "CC BY-NC 4.0" in capsys.readouterr().out
    assert main(["export-torch", str(model), str(out), "--steps", "10"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert ("zeros" in first, "zeros" in second) == (True, False)
    assert (out / "vocoder" / "stats.npy").read_bytes() == stats.read_bytes()
    state, released = (read_checkpoint(p)["model"]["generator"] for p in (out / "vocoder" / vocoder.name, vocoder))
    assert state.pop("mean").tobytes() != released.pop("mean").tobytes()
    assert state.pop("scale").tobytes() != released.pop("scale").tobytes()
    assert_same_arrays(state, released)
    assert main(["import-torch", "--encoder", str(out / "autoencoder" / vocoder.name), str(tmp_path / "silent")]) == 1
    assert "--decoder" in capsys.readouterr().err
    assert not (tmp_path / "silent").exists()
