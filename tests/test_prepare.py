"""Prepared sets: known layouts and their splits, samples kept exactly, all or nothing, and crops as from folders."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from adjax.cli import main
from adjax.config import Data
from adjax.errors import AdjaxError
from adjax.train import data
from adjax.train.data.prepared import Entry, format_index, parse_index
from adjax.train.prepare import Listed, find, format_list, parse_list, prepare, read_lists

RATE = 8000
CROP = 100


def write(path: Path, samples: int = 400, rate: int = RATE, channels: int = 1, subtype: str = "PCM_16") -> Path:
    """A file of noise that its path alone decides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(path.name.encode()))
    audio = rng.integers(-(2**15), 2**15, (samples, channels)).astype(np.int16)
    soundfile.write(path, audio if subtype == "PCM_16" else audio / 2**16, rate, subtype=subtype)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five files in two folders, of 400 samples and more, one of them all silence."""
    for i, name in enumerate(("a/1.wav", "a/2.flac", "b/3.wav", "b/4.flac")):
        write(tmp_path / "set" / name, 400 + 13 * i)
    soundfile.write(tmp_path / "set" / "b" / "silence.wav", np.zeros(512, np.int16), RATE)
    return tmp_path / "set"


def names(layout: str, *paths: Path, **options) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for recording in find(layout, paths, **options):
        found.setdefault(recording.split, []).append(recording.name)
    return found


# --------------------------------------------------------------------------------------------------------- layouts


def test_vctk_holds_out_its_test_and_validation_speakers(tmp_path: Path) -> None:
    """The published test speakers, p232 and p257, must never be trained on, whichever release it is."""
    for speaker in ("p225", "p226", "p232", "p257", "p376"):
        for microphone in ("mic1", "mic2"):
            write(tmp_path / f"new/wav48_silence_trimmed/{speaker}/{speaker}_001_{microphone}.flac")
        write(tmp_path / f"old/VCTK-Corpus/wav48/{speaker}/{speaker}_001.wav")
    write(tmp_path / "new/elsewhere/x.wav")
    place = "wav48_silence_trimmed/{0}/{0}_001_{1}.flac"
    assert names("vctk", tmp_path / "new") == {
        "train": [place.format("p225", "mic1"), place.format("p376", "mic1")],
        "validation": [place.format("p226", "mic1")],
        "test": [place.format("p232", "mic1"), place.format("p257", "mic1")],
    }
    assert names("vctk", tmp_path / "new", microphone="mic2")["validation"] == [place.format("p226", "mic2")]
    assert len(names("vctk", tmp_path / "new", microphone="both")["test"]) == 4
    assert names("vctk", tmp_path / "old") == {
        "train": ["wav48/p225/p225_001.wav", "wav48/p376/p376_001.wav"],
        "validation": ["wav48/p226/p226_001.wav"],
        "test": ["wav48/p232/p232_001.wav", "wav48/p257/p257_001.wav"],
    }
    assert [r.speaker for r in find("vctk", [tmp_path / "old"])] == ["p225", "p376", "p226", "p232", "p257"]


def test_libritts_keeps_its_own_subsets(tmp_path: Path) -> None:
    for subset in ("train-clean-100", "train-other-500", "dev-clean", "test-other", "doubtful"):
        write(tmp_path / f"LibriTTS/{subset}/103/1241/103_1241_000000_000001.wav")
    tail = "103/1241/103_1241_000000_000001.wav"
    wanted = {
        "train": [f"train-clean-100/{tail}", f"train-other-500/{tail}"],
        "validation": [f"dev-clean/{tail}"],
        "test": [f"test-other/{tail}"],
    }
    assert names("libritts", tmp_path) == names("libritts", tmp_path / "LibriTTS") == wanted
    assert {r.speaker for r in find("libritts", [tmp_path])} == {"103"}


def test_folders_hold_out_a_share_that_names_alone_decide(folder: Path, tmp_path: Path) -> None:
    """Equal names give equal splits on every machine; of several folders the name comes first."""
    split = names("folder", folder, validation_share=0.4)
    assert (len(split["train"]), len(split["validation"])) == (3, 2)
    shutil.copytree(folder, tmp_path / "copy")
    assert names("folder", tmp_path / "copy", validation_share=0.4) == split
    assert names("folder", folder) == {"train": ["a/1.wav", "a/2.flac", "b/3.wav", "b/4.flac", "b/silence.wav"]}
    assert names("folder", folder, tmp_path / "copy")["train"][0] == "copy/a/1.wav"
    assert {r.speaker for r in find("folder", [folder])} == {"a", "b"}


@pytest.mark.parametrize(
    ("layout", "given_paths", "message"),
    [
        ("vctk", ["set"], "set: is not laid out as 'vctk': it holds none of the folders wav48_silence_trimmed, wav48"),
        ("libritts", ["set"], "is not laid out as 'libritts'.* train-clean-100"),
        ("vctk", ["set", "set"], "takes one folder"),
        ("folder", ["set/a/1.wav"], "1.wav: is not a folder"),
        ("folder", ["absent"], "absent: no such folder"),
        ("folder", ["set", "set"], "same name"),
        ("folder", ["empty"], "no audio"),
    ],
)
def test_folders_that_are_not_what_they_should_be(
    folder: Path, layout: str, given_paths: list[str], message: str
) -> None:
    (folder.parent / "empty").mkdir()
    with pytest.raises(AdjaxError, match=message):
        find(layout, [folder.parent / p for p in given_paths])


# ------------------------------------------------------------------------------------------------------ split lists

_parts = st.text("aZ0 é_.-#\x0b\u2028", min_size=1, max_size=5).map(lambda part: f"x{part}")
_names = st.lists(_parts, min_size=1, max_size=3).map("/".join)
_digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
_listed = st.builds(Listed, _names, _digests, st.integers(0, 10**18 - 1))


@given(st.lists(_listed, max_size=4, unique_by=lambda f: f.path))
@settings(deadline=None, max_examples=25)
def test_lists_say_back_what_was_written(files: list[Listed]) -> None:
    """Also with the line breaks that editors on Windows leave."""
    text = format_list(files)
    assert parse_list(text, "x") == files
    assert parse_list(text.replace("\n", "\r\n") + "# remark\n\n", "x") == files


@given(st.lists(_listed, min_size=1, max_size=3, unique_by=lambda f: f.path), st.data())
@settings(deadline=None, max_examples=60)
def test_changed_lists_are_refused_or_differ_as_written(files: list[Listed], drawn: st.DataObject) -> None:
    """No change of a character may raise anything but AdjaxError, or be overlooked."""
    text = format_list(files)
    at = drawn.draw(st.integers(0, len(text) - 1))
    new = drawn.draw(st.sampled_from("\t\n\r/.#0fg\x00") | st.characters())
    changed = text[:at] + new + text[at + 1 :]
    try:
        found = parse_list(changed, "list.txt")
    except AdjaxError as error:
        assert "list.txt" in str(error)  # noqa: PT017
    else:
        assert found != files or changed == text or "\r" in changed or text[at] == "\n"


@pytest.mark.parametrize(
    "line", ["../x.wav", "/etc/x.wav", "a//b.wav", "x.wav\t12", f"x.wav\t{'0' * 63}\t5", f"x.wav\t{'0' * 64}\t-5", ""]
)
def test_lists_that_lead_elsewhere_or_lack_something(line: str) -> None:
    fields = f"{line}\t{'0' * 64}\t5" if "\t" not in line and line else line
    text = format_list([]) + fields + "\n"
    if not line:
        assert parse_list(text, "x") == []
        return
    with pytest.raises(AdjaxError, match="x: line 2"):
        parse_list(text, "x")
    with pytest.raises(AdjaxError, match="not a split list"):
        parse_list("a.wav\n", "x")


@given(st.lists(st.builds(Entry, _names, _names, st.integers(1, 10**9), st.integers(1, 99)), max_size=4), st.data())
@settings(deadline=None, max_examples=25)
def test_indices_say_back_what_was_written(entries: list[Entry], drawn: st.DataObject) -> None:
    """And one cut short, which would leave out files, is noticed wherever its last line ends."""
    text = format_index(entries)
    assert parse_index(text, "x") == entries
    cut = text[: drawn.draw(st.integers(0, len(text) - 1))]
    if not cut.endswith("\n"):
        with pytest.raises(AdjaxError, match=r"^x: not an index"):
            parse_index(cut, "x")


# ------------------------------------------------------------------------------------------------------- preparing


def test_samples_are_kept_exactly(folder: Path, tmp_path: Path) -> None:
    """16-bit files at the set's rate go in and out unchanged, in segments that tensorflow-datasets itself can read."""
    write(folder / "stereo.wav", 333, channels=2)
    summary = prepare([folder], tmp_path / "out", segment_seconds=0.02, shards=3, validation_share=0.3)
    assert summary.clipped == 0
    total = 0
    for split in summary.marker.splits:
        sources, _ = data.scan([f"{tmp_path}/out:{split.name}"], RATE, 1, 0)
        assert len(sources) == split.files
        for source in sources:
            wanted, _ = soundfile.read(folder / source.path.relative_to(f"{tmp_path}/out:{split.name}"), always_2d=True)
            assert (source.frames, source.channels, source.sample_rate_hz) == (*wanted.shape, RATE)
            np.testing.assert_array_equal(data.read_span(source, 0, source.frames, RATE), wanted)
            np.testing.assert_array_equal(data.read_span(source, 159, 3, RATE), wanted[159:162])
            total += source.frames
    assert total == sum(s.samples for s in summary.marker.splits) == 400 + 413 + 426 + 439 + 512 + 333

    built = tfds.builder_from_directory(tmp_path / "out" / "audio" / "1.0.0")
    assert built.info.metadata == {"sample_rate_hz": RATE, "segment_samples": 160, "layout": "folder"}
    records = list(built.as_data_source(split="train"))
    assert {r["speaker"] for r in records} <= {b"a", b"b", b""}
    assert all(r["sample_rate_hz"] == RATE and r["audio"].dtype == np.int16 for r in records)
    assert len(list((tmp_path / "out" / "audio" / "1.0.0").glob("*train*"))) == 3


def test_crops_are_those_of_the_folder(folder: Path, tmp_path: Path) -> None:
    """The same seed gives the same spans: over segments' ends, with context, for any host and number of threads."""
    prepare([folder], tmp_path / "out", segment_seconds=0.015)
    settings = Data(batch_size=4, crop_samples=CROP, context_samples=150, gain_db=(-6.0, 6.0))

    def dataset(path: Path, shard: tuple[int, int] = (0, 1)):
        sources, _ = data.scan([path], RATE, 1, CROP)
        return data.crops(sources, settings, sample_rate_hz=RATE, channels=1, seed=3, shard=shard)

    plain, packed = dataset(folder), dataset(tmp_path / "out")
    iterator = data.batches(packed, 2, threads=3)
    for k in range(2, 8):
        np.testing.assert_array_equal(plain[k], packed[k])
        np.testing.assert_array_equal(next(iterator), packed[k])
    iterator.close()  # pyright: ignore
    halves = [dataset(tmp_path / "out", (h, 2))[5] for h in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves), plain[5])


def test_other_rates_and_resolutions_are_rounded_to_16_bits(tmp_path: Path) -> None:
    """A span of the prepared set is that of the file as training would resample it, within a rounding."""
    write(tmp_path / "set" / "a.wav", 3001, rate=11025, subtype="FLOAT")
    write(tmp_path / "set" / "b.flac", 2000, subtype="PCM_24")
    with pytest.raises(AdjaxError, match="are at 8000, 11025 Hz; say with --rate which to use"):
        prepare([tmp_path / "set"], tmp_path / "out")
    prepare([tmp_path / "set"], tmp_path / "out", sample_rate_hz=RATE, segment_seconds=0.05)
    plain, _ = data.scan([tmp_path / "set"], RATE, 1, 0)
    packed, _ = data.scan([tmp_path / "out"], RATE, 1, 0)
    for a, b in zip(plain, packed, strict=True):
        assert a.samples(RATE) == b.frames
        wanted = data.read_span(a, 0, b.frames, RATE)
        np.testing.assert_allclose(data.read_span(b, 0, b.frames, RATE), wanted, atol=0.501 / 2**15)


def test_what_would_not_fit_16_bits_is_clipped_and_counted(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.5, 1.5, -2.0, -1.0]), RATE, subtype="FLOAT")
    assert prepare([tmp_path], tmp_path / "out").clipped == 2
    sources, _ = data.scan([tmp_path / "out"], RATE, 1, 0)
    np.testing.assert_array_equal(data.read_span(sources[0], 0, 4, RATE)[:, 0] * 2**15, [2**14, 32767, -32768, -32768])


def test_lists_are_written_and_verified(folder: Path, tmp_path: Path) -> None:
    """Given lists bring back the same set from another copy of the corpus, and no file that differs passes for one."""
    prepare([folder], tmp_path / "out", validation_share=0.4)
    lists = read_lists(tmp_path / "out" / "splits")
    for listed in (file for files in lists.values() for file in files):
        content = (folder / listed.path).read_bytes()
        assert listed.sha256 == hashlib.sha256(content).hexdigest()
        assert listed.samples == soundfile.info(folder / listed.path).frames
    write(folder / "later.wav")
    again = prepare([folder], tmp_path / "again", splits=tmp_path / "out" / "splits")
    for name in ("prepared.json", "splits/train.txt", "splits/validation.txt", "index/train.tsv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert sum(s.files for s in again.marker.splits) == 5

    target = folder / "b" / "silence.wav"
    kept = target.read_bytes()
    target.write_bytes(kept[:-1] + b"\x01")
    with pytest.raises(AdjaxError, match=r"silence\.wav: is not the file that was listed: its SHA-256 is"):
        prepare([folder], tmp_path / "third", splits=tmp_path / "out" / "splits")
    target.unlink()
    with pytest.raises(AdjaxError, match=r"b/silence\.wav: the list of the split '\w+' names it, but it is not in"):
        prepare([folder], tmp_path / "third", splits=tmp_path / "out" / "splits")
    (tmp_path / "out" / "splits" / "test.txt").write_text(format_list(lists["train"][:1]))
    with pytest.raises(AdjaxError, match=r"is in train\.txt and in test\.txt"):
        prepare([folder], tmp_path / "third", splits=tmp_path / "out" / "splits")
    with pytest.raises(AdjaxError, match="holds no split list"):
        prepare([folder], tmp_path / "third", splits=tmp_path)
    assert not (tmp_path / "third").exists()


def test_bad_files_are_left_out_and_counted(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where they fill a shard, and one whose end is missing, which only decoding shows."""
    (folder / "b" / "junk.wav").write_bytes(b"junk" * 50)
    soundfile.write(folder / "b" / "empty.wav", np.zeros(0), RATE)
    soundfile.write(folder / "nan.wav", np.full(400, np.nan), RATE, subtype="FLOAT")
    whole = write(folder / "a" / "cut.flac", 30_000).read_bytes()
    (folder / "a" / "cut.flac").write_bytes(whole[: len(whole) // 2])
    assert main(["prepare", str(folder), str(tmp_path / "out"), "--shards", "9"]) == 0
    said = capsys.readouterr()
    assert f"{tmp_path}/out:train: 5 files" in said.out
    assert "4 files were left out" in said.err
    left_out = (tmp_path / "out" / "left_out.tsv").read_text()
    assert all(name in left_out for name in ("junk.wav", "empty.wav", "nan.wav", "cut.flac"))
    assert len(read_lists(tmp_path / "out" / "splits")["train"]) == 5
    assert len(data.scan([tmp_path / "out"], RATE, 1, 0)[0]) == 5

    assert main(["prepare", str(folder), str(tmp_path / "strict"), "--strict"]) == 1
    assert "cannot be prepared" in capsys.readouterr().err
    assert not (tmp_path / "strict").exists()
    (tmp_path / "bad").mkdir()
    shutil.move(folder / "nan.wav", tmp_path / "bad" / "nan.wav")
    with pytest.raises(AdjaxError, match="no usable audio: all 1 files were left out"):
        prepare([tmp_path / "bad"], tmp_path / "none")
    for subset in ("train-clean-100", "dev-clean", "test-clean"):
        write(tmp_path / subset / "1" / "2" / "good.wav")
    (tmp_path / "dev-clean" / "1" / "2" / "good.wav").write_bytes(b"junk" * 50)
    shutil.copy(tmp_path / "bad" / "nan.wav", tmp_path / "test-clean" / "1" / "2" / "good.wav")
    summary = prepare([tmp_path], tmp_path / "one", layout="libritts")  # two whole splits are bad
    assert len(summary.refused) == 2
    assert [s.name for s in summary.marker.splits] == ["train"]
    assert data.read_span(data.scan([tmp_path / "one"], RATE, 1, 0)[0][0], 0, 400, RATE).any()


def test_an_interrupted_preparation_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    """Nor does anything at OUT_DIR pass for complete while it is written, nor is anything there replaced."""
    out = tmp_path / "place" / "out"

    def stop(done_s: float, total_s: float | None) -> None:
        assert not out.exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare([folder], out, progress=stop)
    assert list((tmp_path / "place").iterdir()) == []
    prepare([folder], out)
    before = (out / "prepared.json").stat().st_mtime_ns
    with pytest.raises(AdjaxError, match="is there already"):
        prepare([folder], out)
    assert (out / "prepared.json").stat().st_mtime_ns == before


def test_no_tensorflow_and_a_full_disk(folder: Path, tmp_path: Path) -> None:
    """In a fresh process: TensorFlow is never imported, and a file that cannot grow gives one line and no folder."""
    program = f"""
import resource, sys
from adjax.cli import main
from adjax.train import data
assert main(["prepare", {str(folder)!r}, {str(tmp_path / "out")!r}]) == 0
sources, _ = data.scan([{str(tmp_path / "out")!r}], {RATE}, 1, 0)
assert data.read_span(sources[0], 0, 400, {RATE}).shape == (400, 1)
assert not any(name.split(".")[0] == "tensorflow" for name in sys.modules)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
sys.exit(main(["prepare", {str(folder)!r}, {str(tmp_path / "full")!r}]))
"""
    root = Path(__file__).resolve().parents[1]
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root)
    assert result.returncode == 1, result.stderr
    assert "adjax: error:" in result.stderr.splitlines()[-1]
    assert "is the disk full?" in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "set"]


# --------------------------------------------------------------------------------------------------------- reading


def test_entries_that_cannot_be_trained_on(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare([folder], out, validation_share=0.4)
    with pytest.raises(AdjaxError, match=r"out: prepared at 8000 Hz, but the model's sample rate is 48000 Hz; prepare"):
        data.scan([f"{out}:train"], 48000, 1, 0)
    with pytest.raises(AdjaxError, match=r"is a prepared set of several splits; name one of .*out:train, .*:valid"):
        data.scan([out], RATE, 1, 0)
    with pytest.raises(AdjaxError, match="out: has no split 'test'; name one of"):
        data.scan([f"{out}:test"], RATE, 1, 0)
    index = out / "index" / "train.tsv"
    kept = index.read_text()
    index.write_text("".join(kept.splitlines(keepends=True)[:-1]))
    with pytest.raises(AdjaxError, match=r"train\.tsv: 2 files in 2 records, but prepared\.json says 3 in 3"):
        data.scan([f"{out}:train"], RATE, 1, 0)
    index.write_text(kept)
    marker = json.loads((out / "prepared.json").read_text())
    (out / "prepared.json").write_text(json.dumps(marker | {"format": 2}))
    with pytest.raises(AdjaxError, match=r"prepared\.json: not a description .* this version of adjax reads format 1"):
        data.scan([f"{out}:train"], RATE, 1, 0)


def test_damaged_records_are_replaced_and_reported(folder: Path, tmp_path: Path) -> None:
    """A damaged record is as a file that turns bad: its crops come from elsewhere, and the run goes on."""
    prepare([folder], tmp_path / "out", shards=5)
    shards = sorted((tmp_path / "out" / "audio" / "1.0.0").glob("*array_record*"))
    assert len(shards) == 5
    content = bytearray(shards[0].read_bytes())
    samples = soundfile.read(folder / "a" / "1.wav", dtype="int16")[0].tobytes()
    at = content.index(samples[:8])  # noise is not compressed
    content[at : at + 8] = bytes(8)
    shards[0].write_bytes(content)
    reported: list[Path] = []
    sources, _ = data.scan([tmp_path / "out"], RATE, 1, CROP)
    settings = Data(batch_size=5, crop_samples=CROP)
    ds = data.crops(sources, settings, sample_rate_hz=RATE, channels=1, seed=0, on_unreadable=reported.append)
    assert np.isfinite(ds[0]).all()
    assert set(reported) == {tmp_path / "out" / "a" / "1.wav"}


def test_noisy_versions_may_be_prepared_too(folder: Path, tmp_path: Path) -> None:
    """Pairs are found by path, between prepared sets, or between a prepared set and a folder."""
    shutil.copytree(folder, tmp_path / "noisy")
    prepare([folder], tmp_path / "out")
    prepare([tmp_path / "noisy"], tmp_path / "noisy-out")
    settings = Data(batch_size=5, crop_samples=CROP)
    for clean in (folder, tmp_path / "out"):
        for noisy in (tmp_path / "noisy", f"{tmp_path}/noisy-out:train"):
            sources = data.pair(data.scan([clean], RATE, 1, CROP)[0], [clean], [noisy])
            heard, target = data.crops(sources, settings, sample_rate_hz=RATE, channels=1, seed=0)[0]
            np.testing.assert_array_equal(heard, target)
    write(folder / "more.wav")
    with pytest.raises(AdjaxError, match=r"noisy-out/more\.wav: no such file, but .*set/more\.wav needs"):
        data.pair(data.scan([folder], RATE, 1, CROP)[0], [folder], [tmp_path / "noisy-out"])


def test_arguments_that_make_no_sense(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        (["--name", "../x"], "name '../x' must be of"),
        (["--layout", "vctk", "--validation-share", "0.1"], "is for the layout 'folder'"),
        (["--validation-share", "1"], "from 0 to below 1"),
        (["--validation-share", "0.99"], "leaves none to train on"),
        (["--segment-seconds", "0.00001"], "hold no sample"),
    ):
        assert main(["prepare", str(folder), str(tmp_path / "out"), *options]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
