"""The live engine: a file through all threads is the offline codec's result, and everything that fails is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from adjax.cli import main
from adjax.errors import AdjaxError
from adjax.live import FileSink, FileSource, run_live
from adjax.live.buffers import Channel, Playout, Workers
from adjax.live.endpoints import Chunk, Recording, load_sounddevice
from adjax.live.statistics import KEPT, Durations, text

CHUNK = 8  # frames of 20 samples: 20 ms of the tiny model
SAMPLES = CHUNK * 20


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of no whole number of chunks or hops, at 8 kHz."""
    path = tmp_path_factory.mktemp("live") / "voice.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 4 * SAMPLES + 47).astype(np.float32), 8000)
    return path


@pytest.fixture(scope="module")
def offline(tiny_codec: Any, voice: Path) -> np.ndarray:
    """What the codec makes of it at once, as a 16-bit file holds it."""
    natural = soundfile.read(voice, dtype="float32")[0]
    decoded = np.asarray(tiny_codec.decode(tiny_codec.encode(natural[None, :, None])))[0, :, 0]
    return np.clip(decoded, -1, 1)


def through(codec: Any, voice: Path, target: Path, pace: float | None, **options: Any) -> dict[str, Any]:
    source, sink = FileSource(voice, 8000, 1, SAMPLES, pace), FileSink(target, 8000, 1, SAMPLES, pace)
    return run_live(codec, source, sink, CHUNK, lossless=pace is None, **options)


def test_file_through_engine_is_offline(tiny_codec: Any, voice: Path, offline: np.ndarray, tmp_path: Path) -> None:
    """Chunks through threads and queues are the stream that the offline codec codes: same samples, same length.

    16-bit files hold them to 2e-5; both recordings are complete: what went in, and what came out.
    """
    report = through(tiny_codec, voice, tmp_path / "out.wav", None, record=tmp_path / "rec")
    out = soundfile.read(tmp_path / "out.wav", dtype="float32")[0]
    assert out.shape == offline.shape
    assert np.abs(out - offline).max() < 1e-4
    np.testing.assert_array_equal(soundfile.read(tmp_path / "rec-output.wav", dtype="float32")[0], out)
    np.testing.assert_array_equal(soundfile.read(tmp_path / "rec-input.wav")[0], soundfile.read(voice)[0])
    assert not any(report["drop_outs"].values())
    assert report["latency_ms"]["buffer"]["chunk"] == 20
    assert report["latency_ms"]["algorithmic"] == 1000 * tiny_codec.delay / 8000
    for stage in ("encode", "decode"):
        part = report["latency_ms"]["computation"][stage]
        assert 0 < part["p50"] <= part["p95"] <= part["p99"]
    json.dumps(report)
    assert any("encode: p50" in line for line in text(report))


def test_real_time_pace(tiny_codec: Any, voice: Path, offline: np.ndarray, tmp_path: Path) -> None:
    """At a device's pace it takes at least as long as the audio, and what is late or dropped is counted.

    So the length is the input's, plus silence where the sink starved, less what was dropped; with neither, and only
    then, the samples are the offline ones.
    """
    start = time.monotonic()
    report = through(tiny_codec, voice, tmp_path / "out.wav", 1.0, buffer_s=0.1)
    assert time.monotonic() - start > (4 * SAMPLES + 47) / 8000
    drops = report["drop_outs"]
    out = soundfile.read(tmp_path / "out.wav", dtype="float32")[0]
    if not any(drops.values()):
        assert np.abs(out - offline).max() < 1e-4
    elif not drops["chunks_not_encoded"] + drops["chunks_not_decoded"] + drops["chunks_not_played"]:
        assert len(out) == len(offline) + round(drops["underrun_ms"] * 8)


def test_gain_and_codebooks(tiny_codec: Any, voice: Path, tmp_path: Path) -> None:
    """The gain is before the encoder, so recorded with the input; fewer codebooks decode as offline."""
    through(tiny_codec, voice, tmp_path / "out.wav", None, codebooks=2, gain_db=-20.0, record=tmp_path / "rec")
    natural = soundfile.read(voice, dtype="float32")[0]
    np.testing.assert_allclose(soundfile.read(tmp_path / "rec-input.wav")[0], natural / 10, atol=2e-5)
    codes = tiny_codec.encode(natural[None, :, None] * np.float32(0.1), codebooks=2)
    expected = np.clip(np.asarray(tiny_codec.decode(codes))[0, :, 0], -1, 1)
    assert np.abs(soundfile.read(tmp_path / "out.wav")[0] - expected).max() < 1e-4
    with pytest.raises(AdjaxError, match="--codebooks is 4"):
        through(tiny_codec, voice, tmp_path / "out.wav", None, codebooks=4)


# ------------------------------------------------------------------------------------------------------------- faults


class BrokenSource:
    """Two chunks, then a fault as a driver has it."""

    latency_s = None
    failures = 0

    def run(self, put: Any, stop: threading.Event) -> None:
        for i in range(2):
            put(Chunk(i, time.monotonic(), np.zeros((SAMPLES, 1), np.float32)))
        time.sleep(0.3)  # so that these are through
        raise AdjaxError("--input-device: the device stopped")


def test_thread_error_surfaces(tiny_codec: Any, tmp_path: Path) -> None:
    """An error in any thread ends all of them and is raised; what was recorded until then is a complete file."""
    sink = FileSink(tmp_path / "out.wav", 8000, 1, SAMPLES, None)
    before = threading.active_count()
    with pytest.raises(AdjaxError, match="the device stopped"):
        run_live(tiny_codec, BrokenSource(), sink, CHUNK, record=tmp_path / "rec")
    assert threading.active_count() == before
    assert soundfile.info(str(tmp_path / "rec-input.wav")).frames == 2 * SAMPLES


def test_early_refusals(voice: Path, tmp_path: Path) -> None:
    """What cannot work is refused before anything is compiled, with the file's name."""
    with pytest.raises(AdjaxError, match=r"none\.wav"):
        FileSource(tmp_path / "none.wav", 8000, 1, SAMPLES)
    with pytest.raises(AdjaxError, match=r"out\.xyz"):
        FileSink(tmp_path / "out.xyz", 8000, 1, SAMPLES)
    with pytest.raises(AdjaxError, match="the folder"):
        Recording(tmp_path / "none" / "out.wav", 8000, 1)


@pytest.mark.parametrize("failure", [ImportError("no"), OSError("PortAudio library not found")])
def test_missing_sound_library(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    """Without the extra, or the library under it, the message says what to install."""

    class Finder:
        @staticmethod
        def find_spec(name: str, *_: Any) -> None:
            if name == "sounddevice":
                raise failure

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    with pytest.raises(AdjaxError, match=r"adjax\[live\]" if isinstance(failure, ImportError) else "libportaudio2"):
        load_sounddevice()


def test_interrupt_ends_with_statistics(tiny_model: str, voice: Path, tmp_path: Path) -> None:
    """Ctrl-C is how live sessions end: exit status 0, the statistics, and complete files of what was until then."""
    long = tmp_path / "long.wav"
    soundfile.write(long, np.tile(soundfile.read(voice)[0], 300), 8000)
    program = "import sys; from adjax.cli import main; sys.exit(main())"
    run = ["live", "--model", tiny_model, "--input", str(long), "--output", str(tmp_path / "out.wav"), "--json"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *run, "--record", str(tmp_path / "rec")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).parents[1],
    )
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".adjax-*.tmp")) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        os.kill(process.pid, 15)  # as Ctrl-C for commands; a shell may have SIGINT ignored
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, err
    report = json.loads(out)
    frames = {name: soundfile.info(str(tmp_path / name)).frames for name in ("out.wav", "rec-input.wav")}
    assert frames["rec-input.wav"] == round(8000 * report["audio_s"])
    assert 0 < frames["out.wav"] < soundfile.info(str(long)).frames


# ------------------------------------------------------------------------------------------------------------ buffers


def test_channel_is_bounded() -> None:
    """A full queue drops and counts, keeps its order, and ends when closed; a lossless one waits for its reader."""
    channel: Channel[int] = Channel(3)
    assert [channel.put(i) for i in range(5)] == [True, True, True, False, False]
    assert (channel.dropped, channel.fill) == (2, 1.0)
    channel.close()
    assert list(channel) == [0, 1, 2]
    waiting: Channel[int] = Channel(1, lossless=True)
    reader = threading.Thread(target=lambda: got.extend(waiting))
    got: list[int] = []
    reader.start()
    for i in range(50):
        assert waiting.put(i)
    waiting.close()
    reader.join(10)
    assert got == list(range(50))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.one_of(st.integers(1, 60), st.integers(-60, -1)), max_size=60))
def test_playout_never_clicks(moves: list[int]) -> None:
    """Pushes (> 0) and pulls (< 0) in any order: a constant 1 with gaps leaves no step above the joining ramp's slope.

    Each sample pulled was pushed, or is silence that was counted, or the lead; the level is bounded.
    """
    playout = Playout(8000, 1, capacity=150, lead=25)
    pulled, pushed = [np.zeros(1, np.float32)], 0
    for move in moves:
        if move > 0:
            playout.push(np.ones((move, 1), np.float32))
            pushed += move
        else:
            pulled.append(playout.pull(-move)[:, 0])
        assert playout.level <= 150
    sound = np.concatenate(pulled)
    # Behind its lead the first block begins as it is where nothing was pulled before it: a file begins with its sample.
    steps = np.abs(np.diff(sound[1:]))
    big = np.flatnonzero(steps > 2 / 40 + 1e-5)
    assert len(big) <= 1
    assert playout.silent_samples <= len(sound)
    if not playout.overruns:
        assert playout.level >= pushed - len(sound) + 1


def test_playout_drops_the_oldest() -> None:
    """After a stall of the loudspeaker what is played next is what came last, so the delay does not stay."""
    playout = Playout(8000, 1, capacity=100, lead=20)
    for i in range(40):
        playout.push(np.full((20, 1), i, np.float32))
    assert playout.overruns > 30
    assert playout.level <= 100
    assert playout.pull(20 + playout.level)[-1, 0] == 39


def test_playout_counts_underruns() -> None:
    """Silence that nobody pushed is counted while it is due: not before the first block, in a pause or at the end."""
    playout = Playout(8000, 1, capacity=100)
    playout.pull(50)
    playout.push(np.ones((20, 1), np.float32))
    playout.pull(30)
    playout.pull(30)
    assert (playout.underruns, playout.silent_samples) == (1, 40)
    playout.pause()
    playout.pull(30)
    playout.push(np.ones((20, 1), np.float32))
    playout.close()
    playout.pull(30)
    assert (playout.underruns, playout.silent_samples) == (1, 40)
    assert playout.finished


def test_workers_raise_the_first_error() -> None:
    """The first error aborts the others, which may fail in turn; that is not what the user must read."""
    aborted = threading.Event()

    def second() -> None:
        aborted.wait(10)
        raise OSError("because of the first")

    def first() -> None:
        raise AdjaxError("the cause")

    workers = Workers(aborted.set)
    workers.add("second", second)
    workers.add("first", first)
    with pytest.raises(AdjaxError, match="the cause"):
        workers.run()


def test_durations_in_bounded_memory() -> None:
    """Percentiles are those of the latest durations; before the first there are none."""
    durations = Durations()
    assert durations.summary_ms() is None
    for i in range(KEPT + 101):
        durations.add(9.0 if i < 101 else 0.001 * (1 + i % 100))
    summary = durations.summary_ms()
    assert summary is not None
    assert abs(summary["p50"] - 50.5) < 1
    assert abs(summary["p99"] - 99) < 1.1


# ------------------------------------------------------------------------------------------------------- command line


def test_command(tiny_model: str, voice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`adjax live` on files prints its statistics as JSON; wrong combinations are one line that names the option."""
    files = ["--model", tiny_model, "--input", str(voice), "--output", str(tmp_path / "out.wav")]
    assert main(["live", *files, "--fast", "--chunk-ms", "20", "--duration", "0.05", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["audio_s"] == 0.05
    assert soundfile.info(str(tmp_path / "out.wav")).frames == 400
    assert main(["live", *files, "--input-device", "1"]) == 1
    assert capsys.readouterr().err.startswith("adjax: error: --input and --input-device")
    assert main(["live", "--fast"]) == 1
    assert capsys.readouterr().err.startswith("adjax: error: --fast")
    for wrong in (["live", "--chunk-ms", "0"], ["send", "--port", "65536"], ["receive", "--jitter-ms", "nan"]):
        with pytest.raises(SystemExit):
            main(wrong)


# ------------------------------------------------------------------------------------------------------------ devices


@pytest.fixture
def null_sink(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a PulseAudio server of our own whose loudspeaker is its microphone."""
    pytest.importorskip("cffi")
    try:
        load_sounddevice()
    except AdjaxError as error:
        pytest.skip(str(error))
    if not shutil.which("pulseaudio"):
        pytest.skip("needs PulseAudio")
    place = tmp_path / "pulse"
    place.mkdir(mode=0o700)
    home = {"HOME": str(place), "XDG_RUNTIME_DIR": str(place), "PULSE_RUNTIME_PATH": str(place)}
    modules = [f"-Lmodule-native-protocol-unix socket={place}/native auth-anonymous=1", "-Lmodule-null-sink"]
    server = subprocess.Popen(
        ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", *modules],
        env=os.environ | home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 10
        while not (place / "native").exists() and server.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if server.poll() is not None or not (place / "native").exists():
            pytest.skip("PulseAudio does not start here")
        yield {"PULSE_SERVER": f"unix:{place}/native"}
    finally:
        server.terminate()
        server.wait(10)


def test_null_sink(tiny_model: str, null_sink: dict[str, str], tmp_path: Path) -> None:
    """Through a real sound server: as many samples as asked for are captured and decoded, and device delays reported.

    PortAudio reads the environment when it is loaded, hence a process of its own.
    """
    program = "import sys; from adjax.cli import main; sys.exit(main())"
    devices = ["--input-device", "pulse", "--output-device", "pulse"]
    options = ["--duration", "0.5", "--chunk-ms", "25", "--json", "--record", str(tmp_path / "rec")]
    result = subprocess.run(
        [sys.executable, "-c", program, "live", "--model", tiny_model, *devices, *options],
        capture_output=True,
        text=True,
        env=os.environ | null_sink,
        cwd=Path(__file__).parents[1],
        timeout=60,
    )
    if "No input device matching 'pulse'" in result.stderr:
        pytest.skip("PortAudio does not see PulseAudio here (Debian: libasound2-plugins)")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    dropped = report["drop_outs"]["chunks_not_encoded"]
    assert soundfile.info(str(tmp_path / "rec-input.wav")).frames == 4000 - 200 * dropped
    assert report["latency_ms"]["device"]["input"] > 0
    assert report["latency_ms"]["device"]["output"] > 0


def test_unknown_device(tiny_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A device that is not there is one line that names the option and how to find what is."""
    try:
        load_sounddevice()
    except AdjaxError as error:
        pytest.skip(str(error))
    assert main(["live", "--model", tiny_model, "--input-device", "no such device"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("adjax: error: --input-device: device 'no such device'")
    assert "--list-devices" in error
    assert error.count("\n") == 1
