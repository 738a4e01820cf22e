"""Training crops: what is drawn, from which files, and that hosts, threads and resuming do not change it."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from adjax.config import Augmentation, Data, TrainConfig
from adjax.errors import AdjaxError
from adjax.train import data
from adjax.train.corpus import open_corpus
from tests.conftest import TINY_CONV

RATE = 8000
CROP = 100


def write_ramp(path: Path, index: int, samples: int = 400, rate: int = RATE, channels: int = 1) -> Path:
    """A file in which every sample says where it is from: 1000 * index + position (+ 500 per channel), over 2^15."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = 1000 * index + np.arange(samples)[:, None] + 500 * np.arange(channels)
    soundfile.write(path, ramp.astype(np.int16), rate, subtype="PCM_16")
    return path


def decoded(batch: np.ndarray) -> np.ndarray:
    return np.rint(batch * 2**15).astype(int)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(1, 8):
        write_ramp(tmp_path / "set" / f"{i}.{'flac' if i % 2 else 'wav'}", i)
    return tmp_path / "set"


def dataset(folder: Path, seed: int = 3, shard: tuple[int, int] = (0, 1), channels: int = 1, **settings):
    settings = {"batch_size": 4, "crop_samples": CROP, **settings}
    sources, _ = data.scan([folder], RATE, channels, settings["crop_samples"])
    return data.crops(sources, Data(**settings), sample_rate_hz=RATE, channels=channels, seed=seed, shard=shard)


def test_find_audio_takes_folders_files_and_lists(tmp_path: Path) -> None:
    """Order comes from the arguments and names alone, each file counts once, and other files in a folder do not."""
    b, a = write_ramp(tmp_path / "x" / "b.wav", 1), write_ramp(tmp_path / "x" / "a" / "z.FLAC", 2)
    (tmp_path / "x" / "notes.md").write_text("no audio")
    write_ramp(tmp_path / "x" / "._b.wav", 3)
    single = write_ramp(tmp_path / "single.wav", 4)
    listing = tmp_path / "lists" / "l.txt"
    listing.parent.mkdir()
    listing.write_text(f"# comment\n\n../x/b.wav\n{single}\n", encoding="utf-8-sig")
    assert data.find_audio([tmp_path / "x"]) == [a, b]
    assert data.find_audio([str(single), tmp_path / "x"]) == [single, a, b]
    assert data.find_audio([listing, single]) == [listing.parent / "../x/b.wav", single]
    with pytest.raises(AdjaxError, match=r"absent: no such file or folder"):
        data.find_audio([tmp_path / "absent"])
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AdjaxError, match=r"binary\.txt: not a list"):
        data.find_audio([tmp_path / "binary.txt"])


def test_scan_counts_what_it_leaves_out(tmp_path: Path) -> None:
    """A file of exactly `minimum_samples` is too short, one sample more is enough; rates count after resampling."""
    write_ramp(tmp_path / "just.wav", 1, CROP + 1)
    write_ramp(tmp_path / "short.wav", 1, CROP)
    write_ramp(tmp_path / "empty.wav", 1, 0)
    write_ramp(tmp_path / "fast.wav", 1, 2 * CROP + 1, rate=2 * RATE)
    write_ramp(tmp_path / "faster.wav", 1, 2 * CROP + 2, rate=2 * RATE)
    write_ramp(tmp_path / "stereo.wav", 1, channels=2)
    (tmp_path / "junk.wav").write_bytes(b"junk" * 50)
    unknown = bytearray(write_ramp(tmp_path / "unknown.flac", 1).read_bytes())
    unknown[21] &= 0xF0  # the 36-bit length in the stream's header: 0 says unknown
    unknown[22:26] = bytes(4)
    (tmp_path / "unknown.flac").write_bytes(unknown)
    (tmp_path / "list.txt").write_text("gone.wav\n")

    sources, report = data.scan([tmp_path, tmp_path / "list.txt"], RATE, 1, CROP)
    assert [s.path.name for s in sources] == ["faster.wav", "just.wav", "stereo.wav"]
    assert [p.name for p in report.too_short] == ["empty.wav", "fast.wav", "short.wav"]
    assert [p.name for p in report.unreadable] == ["junk.wav", "unknown.flac", "gone.wav"]
    assert report.seconds == pytest.approx((CROP + 1 + CROP + 1 + 400) / RATE)
    assert "3 files usable" in str(report)
    assert "3 files left out as not longer than 100 samples (such as" in str(report)

    sources, report = data.scan([tmp_path], RATE, 2, CROP)
    assert [s.path.name for s in sources] == ["stereo.wav"]
    assert "left out for another channel count" in str(report)
    assert len(report.other_channels) == 5


def test_scan_says_where_it_looked(tmp_path: Path) -> None:
    write_ramp(tmp_path / "a.wav", 1, 5)
    with pytest.raises(AdjaxError, match=rf"no usable audio in {tmp_path}: 0 files usable .* 1 file left out"):
        data.scan([tmp_path], RATE, 1, CROP)
    with pytest.raises(AdjaxError, match=r"data\.train"):
        data.scan([], RATE, 1, CROP)


def test_crops_are_real_spans_with_their_context(folder: Path) -> None:
    """Samples carry their file and position, so a crop must be consecutive, and zeros only precede a file's start."""
    padded = 0
    ds = dataset(folder, context_samples=150)
    for k in range(30):
        batch = ds[k]
        assert batch.shape == (4, 250, 1)
        assert batch.dtype == np.float32
        for row in decoded(batch)[..., 0]:
            index, last = divmod(row[-1], 1000)
            expected = np.arange(last - 249, last + 1)
            np.testing.assert_array_equal(row, np.where(expected >= 0, 1000 * index + expected, 0))
            assert last >= CROP - 1  # the crop itself lies in the file
            padded += expected[0] < 0
    assert 20 < padded < 100  # 150 of 301 starts need padding


def test_every_start_is_drawn_and_none_beyond(tmp_path: Path) -> None:
    """A file 4 samples longer than a crop has 5 starts: 400 draws miss one with chance 5 * 0.8^400 ~ 1e-38."""
    write_ramp(tmp_path / "a.wav", 1, CROP + 4)
    ds = dataset(tmp_path)
    starts = np.concatenate([decoded(ds[k])[:, 0, 0] - 1000 for k in range(100)])
    counts = np.bincount(starts, minlength=5)
    assert len(counts) == 5
    assert counts.min() > 40  # 80 expected, standard deviation 8


def test_an_epoch_visits_each_file_once_and_the_next_in_another_order(folder: Path) -> None:
    """7 files in batches of 1: every 7 batches are a permutation, and 4 equal ones in a row have chance 7!^-3."""
    ds = dataset(folder, batch_size=1)
    files = np.array([decoded(ds[k])[0, 0, 0] // 1000 for k in range(28)]).reshape(4, 7)
    for epoch in files:
        assert sorted(epoch) == list(range(1, 8))
    assert len({tuple(epoch) for epoch in files}) > 1


def test_batches_depend_on_seed_and_number_only(folder: Path) -> None:
    ds, again, other = dataset(folder), dataset(folder), dataset(folder, seed=4)
    later = ds[9]
    for k in (0, 1, 9, 10**6):
        np.testing.assert_array_equal(ds[k], again[k])
    np.testing.assert_array_equal(ds[9], later)  # random access leaves no trace
    assert not np.array_equal(ds[0], other[0])
    assert not np.array_equal(ds[0], ds[1])
    assert dataset(folder, seed=-1)[0].shape == (4, CROP, 1)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_hold_the_batch_of_one_host(folder: Path, hosts: int) -> None:
    """Rows are drawn by their global position, so how many hosts share a batch cannot change it, gain included."""
    settings = {"context_samples": 20, "gain_db": (-6.0, 6.0)}
    whole = dataset(folder, **settings)
    parts = [dataset(folder, shard=(h, hosts), **settings) for h in range(hosts)]
    for k in range(5):
        np.testing.assert_array_equal(np.concatenate([p[k] for p in parts]), whole[k])


def test_hosts_must_divide_the_batch(folder: Path) -> None:
    with pytest.raises(AdjaxError, match=r"data\.batch_size \(4\) must be a multiple of the number of hosts \(3\)"):
        dataset(folder, shard=(0, 3))


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_threads_and_resuming_do_not_change_batches(folder: Path, threads: int) -> None:
    ds = dataset(folder)
    for start in (0, 5):
        iterator = data.batches(ds, start, threads)
        for k in range(start, start + 6):
            np.testing.assert_array_equal(next(iterator), ds[k])
        iterator.close()  # pyright: ignore


def test_gain_is_uniform_in_decibels(tmp_path: Path) -> None:
    """A constant signal shows its gain: 400 draws over 12 dB stay inside and come within 1 dB of both ends."""
    soundfile.write(tmp_path / "a.wav", np.full(300, 0.25), RATE, subtype="FLOAT")
    ds = dataset(tmp_path, gain_db=(-9.0, 3.0))
    gains = 20 * np.log10(np.concatenate([ds[k][:, 0, 0] for k in range(100)]) / 0.25)
    assert -9.001 < gains.min() < -8
    assert 2 < gains.max() < 3.001
    assert abs(gains.mean() + 3) < 0.9  # five standard errors
    assert np.ptp(ds[0], axis=1).max() == 0  # one gain a crop


def test_channels(tmp_path: Path) -> None:
    """A mono model sees one whole channel at a time, each of them sooner or later; a stereo model both, aligned."""
    write_ramp(tmp_path / "a.wav", 1, 200, channels=2)
    mono = np.concatenate([decoded(dataset(tmp_path)[k]) for k in range(10)])
    assert mono.shape[1:] == (CROP, 1)
    assert set((mono[:, 0, 0] - 1000) // 500) == {0, 1}
    assert (np.diff(mono, axis=1) == 1).all()
    stereo = decoded(dataset(tmp_path, channels=2)[0])
    assert (stereo[..., 1] - stereo[..., 0] == 500).all()


@pytest.mark.parametrize("rate", [5000, 11025, 48000])
def test_a_resampled_span_is_the_span_of_the_resampled_file(tmp_path: Path, rate: int) -> None:
    """Only the span and a margin are read, from where the resampler's phase is whole: the rest must not matter."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, rate)
    soundfile.write(tmp_path / "a.wav", noise, rate, subtype="FLOAT")
    whole = soxr.resample(noise.astype(np.float32), rate, RATE)
    sources, _ = data.scan([tmp_path], RATE, 1, CROP)
    samples = sources[0].samples(RATE)
    assert samples == RATE
    for start in (0, 1, 1003, 4321, samples - 500):
        span = data.read_span(sources[0], start, 500, RATE)
        assert span.shape == (500, 1)
        np.testing.assert_allclose(span[:, 0], whole[start : start + 500], atol=1e-6)


def test_odd_lengths_resample_to_full_crops(tmp_path: Path) -> None:
    """The last possible crop ends on the last whole sample after resampling, which soxr always produces."""
    for extra in range(12):
        length = 250 + extra
        soundfile.write(tmp_path / "a.wav", np.zeros(length), 11025)
        sources, _ = data.scan([tmp_path], RATE, 1, CROP)
        samples = sources[0].samples(RATE)
        assert data.read_span(sources[0], samples - CROP, CROP, RATE).shape == (CROP, 1)


def damage(path: Path, how: str) -> None:
    if how == "deleted":
        path.unlink()
    elif how == "truncated":
        write_ramp(path, 9, 3)
    elif how == "other rate":
        write_ramp(path, 9, rate=2 * RATE)
    else:
        soundfile.write(path, np.full(400, np.nan), RATE, subtype="FLOAT")


@pytest.mark.parametrize("how", ["deleted", "truncated", "other rate", "not finite"])
def test_a_file_that_turns_bad_is_replaced(folder: Path, caplog: pytest.LogCaptureFixture, how: str) -> None:
    """The run goes on with another file's crop; rows of good files are untouched, and hosts still agree."""
    reported: list[Path] = []
    sources, _ = data.scan([folder], RATE, 1, CROP)

    def make(shard: tuple[int, int]):
        return data.crops(
            sources,
            Data(batch_size=4, crop_samples=CROP),
            sample_rate_hz=RATE,
            channels=1,
            seed=3,
            shard=shard,
            on_unreadable=reported.append,
        )

    before = [make((0, 1))[k] for k in range(7)]
    assert not reported
    bad = folder / "2.wav"
    damage(bad, how)
    with caplog.at_level(logging.WARNING):
        after = [make((0, 1))[k] for k in range(7)]
    assert set(reported) == {bad}
    assert len(reported) >= 4  # 28 rows are 4 epochs of 7 files
    assert "2.wav cannot be read any more" in caplog.text
    rows_before, rows_after = decoded(np.concatenate(before)), decoded(np.concatenate(after))
    was_bad = rows_before[:, 0, 0] // 1000 == 2
    np.testing.assert_array_equal(rows_after[~was_bad], rows_before[~was_bad])
    replaced = rows_after[was_bad]
    assert (np.diff(replaced[..., 0], axis=1) == 1).all()
    assert not (set(replaced[:, 0, 0] // 1000) & {2, 9})
    np.testing.assert_array_equal(np.concatenate([make((h, 2))[3] for h in range(2)]), after[3])


def test_a_set_that_is_gone_stops_the_run(folder: Path) -> None:
    """Substitutes for ever would hide an unmounted disk."""
    ds = dataset(folder)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(AdjaxError, match="16 crops in a row could not be read: are the 7 files still there"):
        ds[0]


def test_crops_from_memory_are_those_from_files(tmp_path: Path) -> None:
    """Rates, sample formats and channels: held or read, a span is the same to the bit, and files may then go."""
    write_ramp(tmp_path / "set" / "a.wav", 1)
    write_ramp(tmp_path / "set" / "b.flac", 2, 900, 2 * RATE, channels=2)
    loud = 2 * np.random.default_rng(0).standard_normal(300)
    for name, subtype in (("c.wav", "FLOAT"), ("d.wav", "PCM_24"), ("e.ogg", "VORBIS")):
        soundfile.write(tmp_path / "set" / name, loud / 8, RATE, subtype=subtype)
    sources, _ = data.scan([tmp_path / "set"], RATE, 1, CROP)
    held = data.hold(sources)
    assert [s.held.dtype.name for s in held if s.held is not None] == ["int16"] * 2 + ["float32"] * 3
    assert [s.held_bytes for s in held[:3]] == [2 * 400, 2 * 2 * 900, 4 * 300]
    wanted = Data(batch_size=5, crop_samples=CROP, context_samples=50)
    read, kept = (data.crops(s, wanted, sample_rate_hz=RATE, channels=1, seed=3) for s in (sources, held))
    from_files = [read[k] for k in range(20)]
    shutil.rmtree(tmp_path / "set")
    for k, batch in enumerate(from_files):
        np.testing.assert_array_equal(kept[k], batch)


def test_a_run_in_memory_sees_the_same_batches(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Speech, its noise and its background are all held, and the run says how much that takes."""
    places = (str(folder),)
    wanted = Data(places, places, 4, CROP, noise=places, augmentation=Augmentation(noise=places, speeds=(0.9, 1.1)))
    read = open_corpus(TrainConfig(TINY_CONV, wanted)).share
    with caplog.at_level(logging.INFO):
        kept = open_corpus(TrainConfig(TINY_CONV, replace(wanted, in_memory=True))).share
    assert caplog.text.count("0 MB of audio held in memory") == 3
    for k in range(5):
        for one, other in zip(read[k], kept[k], strict=True):
            np.testing.assert_array_equal(one, other)


def test_what_cannot_be_held_is_told_when_it_is_drawn(folder: Path) -> None:
    """As from files: the reading threads name it and take another crop."""
    sources, _ = data.scan([folder], RATE, 1, CROP)
    (folder / "3.flac").write_bytes(b"junk")
    held = data.hold(sources)
    assert [s.held is None for s in held] == [s.path.name == "3.flac" for s in held]
    bad: list[Path] = []
    wanted = Data(batch_size=7, crop_samples=CROP)
    ds = data.crops(held, wanted, sample_rate_hz=RATE, channels=1, seed=3, on_unreadable=bad.append)
    assert (decoded(ds[0])[:, 0, 0] // 1000 != 3).all()
    assert bad == [folder / "3.flac"]


# ---------------------------------------------------------------------------------------------------------- noise


def noisy_dataset(clean: list, noisy: list, hold: bool = False, shard: tuple[int, int] = (0, 1), **settings):
    wanted, seed = Data(batch_size=4, crop_samples=CROP, **settings), 3
    sources = data.pair(data.scan(clean, RATE, 1, CROP)[0], clean, noisy)
    sources = data.hold(sources) if hold else sources
    return data.crops(sources, wanted, sample_rate_hz=RATE, channels=1, seed=seed, shard=shard)


def test_pairs_are_the_same_span_of_two_files(tmp_path: Path) -> None:
    """Samples say where they are from: what is heard must be the clean sample's place in its noisy version."""
    for i, name in enumerate(("a.wav", "deep/b.wav", "c.wav"), start=1):
        write_ramp(tmp_path / "clean" / name, i)
        write_ramp(tmp_path / "noisy" / name, 10 + i)
    (tmp_path / "clean" / "list.txt").write_text("a.wav\ndeep/b.wav\n")
    for clean in ([tmp_path / "clean"], [tmp_path / "clean" / "list.txt", tmp_path / "clean" / "c.wav"]):
        ds = noisy_dataset(clean, [tmp_path / "noisy"], context_samples=50)
        for k in range(6):
            heard, target = ds[k]
            assert heard.shape == target.shape == (4, 150, 1)
            assert (decoded(heard) - decoded(target) == 10_000)[decoded(target) != 0].all()
            np.testing.assert_array_equal(data.heard(ds[k]), heard)
        np.testing.assert_array_equal(noisy_dataset(clean, [tmp_path / "noisy"], True, context_samples=50)[3], ds[3])
        parts = [noisy_dataset(clean, [tmp_path / "noisy"], shard=(h, 2), context_samples=50)[3] for h in range(2)]
        np.testing.assert_array_equal(np.concatenate([p[0] for p in parts]), ds[3][0])


def test_pairs_that_do_not_match_are_named(tmp_path: Path) -> None:
    clean, noisy = tmp_path / "clean", tmp_path / "noisy"
    write_ramp(clean / "a.wav", 1)
    with pytest.raises(AdjaxError, match=r"data\.noisy: .*noisy: no such folder"):
        noisy_dataset([clean], [noisy])
    noisy.mkdir()
    with pytest.raises(AdjaxError, match=r"noisy/a\.wav: no such file, but .*clean/a\.wav needs"):
        noisy_dataset([clean], [noisy])
    (noisy / "a.wav").write_bytes(b"junk")
    with pytest.raises(AdjaxError, match=r"a\.wav: cannot be read"):
        noisy_dataset([clean], [noisy])
    write_ramp(noisy / "a.wav", 2, 399)
    with pytest.raises(AdjaxError, match=r"noisy/a\.wav has 399 samples, but .* has 400"):
        noisy_dataset([clean], [noisy])
    write_ramp(noisy / "a.wav", 2, rate=2 * RATE)
    with pytest.raises(AdjaxError, match="16000 Hz"):
        noisy_dataset([clean], [noisy])
    with pytest.raises(AdjaxError, match=r"has 2 folders, but must have 1"):
        noisy_dataset([clean], [noisy, noisy])


def test_noise_is_mixed_in_at_random_ratios(tmp_path: Path) -> None:
    """What is heard minus the clean crop is noise at a ratio within the bounds, which are both come near to.

    400 draws over 20 dB miss the outer decibel at one end with chance 0.95^400 ~ 1e-9. The clean crops are those drawn
    without noise, and all depends on seed and position alone.
    """
    rng = np.random.default_rng(0)
    for name in ("clean", "noise"):
        (tmp_path / name).mkdir()
        for i in range(3):
            soundfile.write(tmp_path / name / f"{i}.wav", 0.1 * rng.standard_normal(1000), RATE, subtype="FLOAT")
    settings = Data(batch_size=4, crop_samples=CROP, context_samples=20, snr_db=(-5.0, 15.0), gain_db=(-6.0, 0.0))
    sources, noise = (data.scan([tmp_path / n], RATE, 1, CROP + 20)[0] for n in ("clean", "noise"))

    def make(noise: list, shard: tuple[int, int] = (0, 1)):
        return data.crops(sources, settings, sample_rate_hz=RATE, channels=1, seed=3, shard=shard, noise=noise)

    mixed, plain = make(noise), make([])
    ratios = []
    for k in range(100):
        heard, target = mixed[k]
        ratios += list(10 * np.log10(np.mean(target**2, axis=1) / np.mean((heard - target) ** 2, axis=1)))
    assert -5.01 < min(ratios) < -4
    assert 14 < max(ratios) < 15.01
    np.testing.assert_array_equal(mixed[0][1], plain[0])
    np.testing.assert_array_equal(mixed[7][0], make(noise)[7][0])
    halves = [make(noise, (h, 2))[7][0] for h in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves), mixed[7][0])
    iterator = data.batches(mixed, 5, 2)
    for k in (5, 6):
        for actual, wanted in zip(next(iterator), mixed[k], strict=True):
            np.testing.assert_array_equal(actual, wanted)
    iterator.close()  # pyright: ignore


def test_silent_noise_adds_nothing(tmp_path: Path) -> None:
    """No gain makes silence as loud as a ratio asks; the crop is then heard as it is, not as NaN."""
    soundfile.write(tmp_path / "noise.wav", np.zeros(300), RATE)
    write_ramp(tmp_path / "a.wav", 1)
    sources, noise = (data.scan([tmp_path / f"{n}.wav"], RATE, 1, CROP)[0] for n in ("a", "noise"))
    settings = Data(batch_size=2, crop_samples=CROP)
    heard, target = data.crops(sources, settings, sample_rate_hz=RATE, channels=1, seed=0, noise=noise)[0]
    np.testing.assert_array_equal(heard, target)
