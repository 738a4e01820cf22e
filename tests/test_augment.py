"""Augmentation: what is drawn lies within its bounds, heard and target change alike, and all depends on the seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from adjax.config import Augmentation, Data, TrainConfig
from adjax.strict_json import ConfigError
from adjax.train import data
from adjax.train.corpus import open_corpus
from adjax.train.data.augment import filter_taps, filtered, minimum_phase, random_filter, random_response
from tests.conftest import TINY_CONV

RATE = 8000
CROP = 200
EQUALIZER = Augmentation(equalizer_db=12.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five files of white noise."""
    path = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    for i in range(5):
        soundfile.write(path / f"{i}.wav", 0.1 * rng.standard_normal(2000), RATE, subtype="FLOAT")
    return path


def dataset(
    folder: Path, augmentation: Augmentation, shard: tuple[int, int] = (0, 1), paired: bool = False, **settings
):
    wanted = Data(batch_size=4, crop_samples=CROP, augmentation=augmentation, **settings)
    minimum = data.drawn_samples(wanted, RATE)
    sources, background, noise = (
        data.scan(paths, RATE, 1, minimum)[0] if paths else []
        for paths in ([folder], augmentation.noise, settings.get("noise", ()))
    )
    if paired:
        sources = data.pair(sources, [folder], [folder])
    return data.crops(
        sources, wanted, sample_rate_hz=RATE, channels=1, seed=3, shard=shard, noise=noise, background=background
    )


def response_of(impulse: np.ndarray, points: int) -> np.ndarray:
    return 20 * np.log10(np.abs(np.fft.rfft(impulse, 2 * (points - 1))))


@given(st.integers(0, 2**32 - 1), st.sampled_from([8000, 24000, 48000]), st.floats(0, 24), st.integers(2, 10))
@settings(deadline=None, max_examples=20)
def test_equalisers_stay_within_their_bound(seed: int, rate: int, bound_db: float, points: int) -> None:
    """What is drawn exactly; what the filter does as nearly as a finite one can (0.01 dB with 8 points)."""
    augmentation = Augmentation(equalizer_db=bound_db, equalizer_points=points)
    taps = filter_taps(rate)
    frequencies = np.linspace(0, rate / 2, 2 * taps + 1)
    drawn = random_response(np.random.default_rng(seed), augmentation, frequencies)
    assert np.abs(drawn).max() <= bound_db + 1e-9
    if bound_db == 0:
        assert not drawn.any()
    impulse = random_filter(np.random.default_rng(seed), augmentation, rate)
    assert impulse.shape == (taps,)
    assert np.abs(response_of(impulse, 2 * taps + 1)).max() <= bound_db + 0.1
    np.testing.assert_allclose(response_of(impulse, 2 * taps + 1), drawn, atol=1.0)


def test_equalisers_fill_their_range_and_are_smooth() -> None:
    """Over 50 draws both ends of the range are come near to; with 8 points steps from bin to bin are small."""
    frequencies = np.linspace(0, RATE / 2, 513)
    drawn = np.array([random_response(np.random.default_rng(k), EQUALIZER, frequencies) for k in range(50)])
    assert drawn.min() < -11
    assert drawn.max() > 11
    assert np.abs(drawn.mean()) < 2
    assert np.abs(np.diff(drawn, axis=1)).max() < 2.0


def test_flat_responses_are_no_filter() -> None:
    np.testing.assert_allclose(minimum_phase(np.zeros(513), 256), np.eye(256)[0], atol=1e-12)


def test_band_limits_cut_where_they_should() -> None:
    """3 dB down at the cut-off, 24 dB an octave beyond; passed below: a Butterworth response of four poles."""
    limits = Augmentation(low_pass_hz=(1000.0, 1000.0), high_pass_hz=(250.0, 250.0))
    response = response_of(random_filter(np.random.default_rng(0), limits, RATE), RATE // 2 + 1)  # a bin a hertz
    np.testing.assert_allclose(response[[250, 500, 1000, 2000]], [-3, -0.04, -3, -24.1], atol=0.5)


def test_a_share_of_the_changed_crops_has_a_low_pass() -> None:
    """What high frequencies lose tells which crops those are."""
    some = Augmentation(low_pass_hz=(1000.0, 1000.0), low_pass_share=0.25)
    rng = np.random.default_rng(0)
    limited = sum(random_response(rng, some, np.array([0.0, 4000.0]))[1] < -40 for _ in range(2000))
    assert 420 < limited < 580  # four standard deviations either side of 500


def test_many_poles_are_the_band_of_a_lower_sample_rate() -> None:
    """With 40 poles the octave below the cut-off is passed, and a third of an octave above it nothing is left."""
    limits = Augmentation(low_pass_hz=(1000.0, 1000.0), poles=40)
    response = response_of(random_filter(np.random.default_rng(0), limits, RATE), RATE // 2 + 1)
    np.testing.assert_allclose(response[:900], 0, atol=0.5)
    assert response[1260:].max() < -60
    steepest = random_response(
        np.random.default_rng(0), Augmentation(low_pass_hz=(1.0, 1.0), poles=100), np.array([0.0, 96e3])
    )
    np.testing.assert_allclose(steepest, [0, -80], atol=1e-6)


def test_every_crop_lies_over_the_noise_floor(folder: Path) -> None:
    """White noise of the level asked for, the same in what is heard and what is to be given, whatever the share."""
    floor = Augmentation(share=0.0, noise_floor_db=-40.0)
    plain, over = dataset(folder, Augmentation()), dataset(folder, floor)
    added = np.concatenate([over[k] - plain[k] for k in range(20)])
    np.testing.assert_allclose(20 * np.log10(added.std(axis=1)), -40, atol=2)
    np.testing.assert_allclose(20 * np.log10(added.std()), -40, atol=0.2)
    power = np.square(np.abs(np.fft.rfft(added[..., 0]))).mean(axis=0)[1:-1]
    assert 0.5 < power.min() / power.mean() < power.max() / power.mean() < 2
    heard, target = dataset(folder, floor, paired=True)[0]
    np.testing.assert_array_equal(heard, target)
    np.testing.assert_array_equal(over[3], dataset(folder, floor)[3])
    assert not np.array_equal(added[0], added[1])


def test_filters_are_convolutions() -> None:
    """Only outputs are kept that the given samples decide, so what precedes them does not matter."""
    rng = np.random.default_rng(0)
    audio, impulse = rng.standard_normal((600, 2)).astype(np.float32), rng.standard_normal(100)
    wanted = np.stack([np.convolve(x, impulse, "valid") for x in audio.T], axis=1)
    out = filtered(audio, impulse)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, wanted, atol=1e-4)


def test_crops_are_those_of_the_filtered_file(folder: Path) -> None:
    """A microphone hears the whole file: the filter must not start anew at the crop, nor at its context."""
    natural, changed = (dataset(folder, a, context_samples=50) for a in (Augmentation(), EQUALIZER))
    whole = {path: soundfile.read(path, dtype="float32")[0] for path in folder.iterdir()}
    for k in range(5):
        for row in range(4):
            rng = np.random.default_rng((3, 4 * k + row, 1))
            rng.random()
            impulse = random_filter(rng, EQUALIZER, RATE)
            crop = natural[k][row, -CROP:, 0]
            path, end = next((p, int(i) + CROP) for p, x in whole.items() for i in np.flatnonzero(x == crop[0]))
            wanted = np.pad(np.convolve(whole[path], impulse)[:end], (50 + CROP, 0))[-50 - CROP :]
            np.testing.assert_allclose(changed[k][row, -CROP:, 0], wanted[-CROP:], atol=1e-5)
            if end >= CROP + 50:
                np.testing.assert_allclose(changed[k][row, :, 0], wanted, atol=1e-5)


def test_off_is_identity_and_a_share_is_left_alone(folder: Path) -> None:
    """Of 80 crops about half are untouched, bit for bit; the others are of the same spans, but changed."""
    plain = dataset(folder, Augmentation())
    unused, half = (dataset(folder, Augmentation(share=share, equalizer_db=6.0)) for share in (0.0, 0.5))
    same = 0
    for k in range(20):
        np.testing.assert_array_equal(plain[k], unused[k])
        same += (plain[k] == half[k]).all(axis=(1, 2)).sum()
    assert 20 < same < 60  # 4.5 standard deviations


def test_background_noise_has_the_ratio_asked_for(folder: Path) -> None:
    """What is added is noise at a ratio within the bounds, over 80 draws near to both."""
    noisy = Augmentation(noise=(str(folder),), noise_snr_db=(10.0, 20.0))
    plain, changed = dataset(folder, Augmentation()), dataset(folder, noisy)
    added = [changed[k] - plain[k] for k in range(20)]
    power = [np.mean(np.square(x), axis=1) for x in ([plain[k] for k in range(20)], added) for x in [np.concatenate(x)]]
    ratios = 10 * np.log10(power[0] / power[1])
    assert 9.99 < ratios.min() < 11
    assert 19 < ratios.max() < 20.01


def test_heard_and_target_change_alike(folder: Path) -> None:
    """A codec is to give what the microphone gave: only the noise of `data.noise` may tell the two apart."""
    everything = Augmentation(equalizer_db=12.0, low_pass_hz=(500.0, 3000.0), noise=(str(folder),))
    heard, target = dataset(folder, everything, paired=True)[0]  # each file is its own noisy version
    np.testing.assert_array_equal(heard, target)
    assert not np.array_equal(target, dataset(folder, Augmentation())[0])
    mixed = {"noise": (str(folder),), "snr_db": (0.0, 0.0)}
    heard, target = dataset(folder, everything, **mixed)[0]
    assert np.abs(heard - target).max() > 0.01
    np.testing.assert_array_equal(target, dataset(folder, everything)[0])


@pytest.mark.parametrize("paired", [False, True])
def test_crops_are_played_at_every_speed(tmp_path: Path, paired: bool) -> None:
    """A tone of 1 kHz comes out at each speed times that, whole, and a noisy version at the same one as its target."""
    soundfile.write(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * np.arange(4 * CROP) / 8), RATE, subtype="FLOAT")
    crops = dataset(tmp_path, Augmentation(speeds=(0.8, 1.0, 1.25)), paired=paired)
    heard = set()
    for k in range(8):
        batch = crops[k]
        if isinstance(batch, tuple):
            np.testing.assert_array_equal(*batch)
        for crop in data.heard(batch)[:, :, 0]:
            spectrum = np.abs(np.fft.rfft(crop * np.hanning(CROP)))
            heard.add(round(np.argmax(spectrum) * RATE / CROP, -1))  # 40 Hz apart
            assert np.abs(crop).max() > 0.45
    assert heard == {800, 1000, 1240}


def test_a_file_must_outlast_a_crop_at_the_highest_speed(tmp_path: Path) -> None:
    """One sample more than a crop at that speed is enough, and every crop of such a file is a full one."""
    for samples in (250, 251, 252):
        soundfile.write(tmp_path / f"{samples}.wav", np.full(samples, 0.1), RATE)
    sources, report = data.scan([tmp_path], RATE, 1, CROP, speed=1.25)
    assert [s.path.stem for s in sources] == ["252"]
    assert len(report.too_short) == 2
    assert sources[0].speed == 1
    crops = dataset(tmp_path, Augmentation(speeds=(1.25,)))
    assert all(crops[k].shape == (4, CROP, 1) for k in range(10))
    wanted = Data(train=(str(tmp_path),), batch_size=2, crop_samples=CROP, augmentation=Augmentation(speeds=(1.25,)))
    assert len(open_corpus(TrainConfig(model=TINY_CONV, data=wanted)).whole)


def test_seed_and_position_alone_decide(folder: Path) -> None:
    everything = Augmentation(
        share=0.7, equalizer_db=6.0, high_pass_hz=(50.0, 200.0), noise=(str(folder),), speeds=(0.9, 1.1)
    )
    whole = dataset(folder, everything)
    for threads in (0, 3):
        iterator = data.batches(whole, 4, threads)
        for k in (4, 5, 6):
            np.testing.assert_array_equal(next(iterator), whole[k])
        iterator.close()  # pyright: ignore
    halves = [dataset(folder, everything, (h, 2))[5] for h in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves), whole[5])
    assert not np.array_equal(whole[0], whole[1])


def test_validation_is_not_augmented(folder: Path) -> None:
    """The corpus of a run augments what it trains on, with files long enough for the filters, and nothing else."""
    paths = (str(folder),)

    def corpus(augmentation: Augmentation):
        wanted = Data(train=paths, validation=paths, batch_size=2, crop_samples=CROP, augmentation=augmentation)
        return open_corpus(TrainConfig(model=TINY_CONV, data=wanted))

    natural, changed = corpus(Augmentation()), corpus(Augmentation(equalizer_db=6.0, noise=paths))
    np.testing.assert_array_equal(natural.validation[0], changed.validation[0])
    np.testing.assert_array_equal(changed.whole[0], changed.share[0])
    assert not np.array_equal(natural.whole[0], changed.whole[0])


def test_published_configurations_are_not_augmented() -> None:
    augmentation = TrainConfig(model=TINY_CONV, data=Data(crop_samples=CROP)).data.augmentation
    assert not augmentation.filters
    assert not augmentation.noise
    assert augmentation.speeds == (1.0,)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"share": 1.5}, "share must be between 0 and 1"),
        ({"low_pass_share": -0.1}, "low_pass_share must be between 0 and 1"),
        ({"speeds": ()}, "speeds must be one or more"),
        ({"speeds": (1.0, 3.0)}, "each between 0.5 and 2"),
        ({"equalizer_db": -1.0}, "equalizer_db must be between 0 and 24"),
        ({"equalizer_points": 1}, "equalizer_points must be between 2 and 10"),
        ({"low_pass_hz": (3000.0, 200.0)}, "low_pass_hz must be positive and ascending"),
        ({"high_pass_hz": (0.0, 200.0)}, "high_pass_hz must be positive"),
        ({"poles": 0}, "poles must be between 1 and 100"),
        ({"noise_floor_db": 3.0}, "noise_floor_db must be null or between -200 and 0"),
        ({"noise_snr_db": (20.0, 10.0)}, "noise_snr_db must be ascending"),
    ],
)
def test_settings_that_make_no_sense(wrong: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Augmentation(**wrong)
