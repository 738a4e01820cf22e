"""Where live audio comes from and goes to: sound devices, and files that run at a device's pace in their place."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np

from adjax import audio
from adjax.errors import AdjaxError
from adjax.live.buffers import Playout

START_LATENCIES = 3  # of silence that a loudspeaker takes before it runs: its buffers are filled while it starts

Name = str | os.PathLike[str]


class Chunk(NamedTuple):
    """float32[samples, channels] that begin `index` whole chunks into the stream, taken at `time_s` (monotonic)."""

    index: int
    time_s: float
    samples: np.ndarray


class Source(Protocol):
    """What audio comes from: `run` gives chunks until its end or until `stop` is set."""

    @property
    def latency_s(self) -> float | None: ...

    @property
    def failures(self) -> int: ...

    def run(self, put: Callable[[Chunk], bool], stop: threading.Event) -> None: ...


class Sink(Protocol):
    """What audio goes to: `run` pulls from a playout until that is finished."""

    @property
    def latency_s(self) -> float | None: ...

    @property
    def failures(self) -> int: ...

    def run(self, playout: Playout) -> None: ...


# ----------------------------------------------------------------------------------------------------------- files


class FileSource:
    """An audio file at `pace` times real time; without a pace, as fast as it is taken.

    Its channels are averaged for a mono model. Raises AdjaxError for what cannot be read.
    """

    latency_s: float | None = None
    failures: int = 0

    def __init__(
        self,
        path: Name,
        rate_hz: int,
        channels: int,
        chunk: int,
        pace: float | None = 1.0,
        duration_s: float | None = None,
    ) -> None:
        self.path, self._rate, self._channels, self._chunk = path, rate_hz, channels, chunk
        self._pace = pace
        self._limit_s = duration_s
        with audio.open_audio(path) as reader:  # so that a wrong name fails before anything is compiled
            audio.check_rates(path, reader.sample_rate_hz, rate_hz)
            if reader.channels != channels and channels != 1:
                raise AdjaxError(f"{path}: has {reader.channels} channels, but the model needs {channels}")

    def run(self, put: Callable[[Chunk], bool], stop: threading.Event) -> None:
        start = time.monotonic()
        for index, samples in enumerate(audio.rechunk(self._samples(), self._chunk)):
            if self._pace is not None:  # a device gives a chunk once its last sample has been
                due = start + ((index * self._chunk) + len(samples)) / self._rate / self._pace
                if stop.wait(max(0.0, due - time.monotonic())):
                    return
            elif stop.is_set():
                return
            put(Chunk(index, time.monotonic(), samples))

    def _samples(self) -> Iterator[np.ndarray]:
        with audio.open_audio(self.path) as reader:
            limit = None if self._limit_s is None else max(1, round(self._limit_s * reader.sample_rate_hz))
            mono = self._channels == 1
            blocks = (b.mean(axis=1, keepdims=True) if mono else b for b in reader.blocks(limit))
            yield from audio.resample(blocks, reader.sample_rate_hz, self._rate)


class Recording:
    """An audio file that is made at the first block and complete once closed, whatever else failed."""

    def __init__(self, path: Name, rate_hz: int, channels: int) -> None:
        self._writer = audio.AudioWriter(path, rate_hz, channels)
        self._open = self._failed = False
        folder = Path(path).resolve().parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise AdjaxError(f"{path}: cannot be written: the folder {folder} is missing or read-only")

    @property
    def samples(self) -> int:
        return self._writer.samples

    @property
    def clipped(self) -> int:
        return self._writer.clipped

    def write(self, block: np.ndarray) -> None:
        """Appends float32[samples, channels]."""
        if not self._open:
            self._writer.__enter__()
            self._open = True
        try:
            self._writer.write(block)
        except BaseException as error:
            self._open = False
            self._writer.__exit__(type(error), error, error.__traceback__)
            raise

    def close(self) -> None:
        if self._open:
            self._open = False
            self._writer.__exit__(None, None, None)


class FileSink:
    """An audio file in place of a loudspeaker, which takes `chunk` samples every `chunk` samples of real time.

    What was not there in time is silence in the file, as it would have been in the room. Without a pace it takes what
    comes. It holds the model's output from the first sample on.
    """

    latency_s: float | None = None
    failures: int = 0

    def __init__(self, path: Name, rate_hz: int, channels: int, chunk: int, pace: float | None = 1.0) -> None:
        self._recording = Recording(path, rate_hz, channels)
        self._rate, self._chunk, self._pace = rate_hz, chunk, pace

    @property
    def clipped(self) -> int:
        return self._recording.clipped

    def run(self, playout: Playout) -> None:
        try:
            playout.ready.set()
            if not playout.wait_for_samples(1):
                return
            playout.skip_lead()  # waited for below, not written
            if self._pace is None:
                while count := playout.wait_for_samples(self._chunk):
                    self._recording.write(playout.pull(count))
                return
            start, played = time.monotonic() + playout.lead / self._rate / self._pace, 0
            while not playout.finished:
                time.sleep(max(0.0, start + played / self._rate / self._pace - time.monotonic()))
                count = min(self._chunk, playout.level) if playout.closed else self._chunk
                played += count
                if playout.active or playout.level:
                    self._recording.write(playout.pull(count))
        finally:
            self._recording.close()


# --------------------------------------------------------------------------------------------------------- devices


def load_sounddevice() -> ModuleType:
    """The `sounddevice` package. Raises AdjaxError where it, or the PortAudio library under it, is missing."""
    try:
        import sounddevice
    except ImportError:
        raise AdjaxError("sound devices need the package `sounddevice`: pip install 'adjax[live]'") from None
    except OSError:
        raise AdjaxError(
            "sound devices need the PortAudio library: install it (Debian: apt install libportaudio2; macOS: brew "
            "install portaudio), or use --input and --output with files"
        ) from None
    return sounddevice


def list_devices() -> list[dict[str, Any]]:
    """Index, name, channels, default rate and latencies of every sound device."""
    sd = load_sounddevice()
    chosen = tuple(sd.default.device)
    return [
        {
            "index": index,
            "name": device["name"],
            "input_channels": device["max_input_channels"],
            "output_channels": device["max_output_channels"],
            "default_sample_rate_hz": device["default_samplerate"],
            "default_input": index == chosen[0],
            "default_output": index == chosen[1],
        }
        for index, device in enumerate(sd.query_devices())
    ]


class _Device:
    """What input and output devices share: `device` is an index, part of a name, or None for the default.

    `latency` "low" asks the device for small buffers, which it may then fail to fill in time. Raises AdjaxError for
    devices that are not there or cannot do what is asked.
    """

    kind: str

    def __init__(
        self, device: int | str | None, rate_hz: int, channels: int, chunk: int, latency: str = "high"
    ) -> None:
        self._sd, self._latency = load_sounddevice(), latency
        self._device, self._rate, self._channels, self._chunk = device, rate_hz, channels, chunk
        self.latency_s: float | None = None
        self.failures = 0  # over- and underflows that the device reported
        self._stopped = threading.Event()
        check = self._sd.check_input_settings if self.kind == "input" else self._sd.check_output_settings
        with self._explained():
            check(device=device, channels=channels, dtype="float32", samplerate=rate_hz)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        which = "the default device" if self._device is None else f"device '{self._device}'"
        try:
            yield
        except (self._sd.PortAudioError, ValueError) as error:
            if isinstance(error, AdjaxError):
                raise
            reason = str(error.args[0]) if error.args else type(error).__name__
            raise AdjaxError(
                f"--{self.kind}-device: {which} cannot be used with {self._rate} Hz and {self._channels} channels: "
                f"{reason}; --list-devices shows what there is"
            ) from None

    def _settings(self, callback: Callable[..., None]) -> dict[str, Any]:
        return {
            "device": self._device,
            "samplerate": self._rate,
            "channels": self._channels,
            "dtype": "float32",
            "latency": self._latency,
            "callback": callback,
            "finished_callback": self._stopped.set,
        }


class DeviceSource(_Device):
    """A microphone, `duration_s` of it or until stopped."""

    kind = "input"

    def __init__(
        self,
        device: int | str | None,
        rate_hz: int,
        channels: int,
        chunk: int,
        latency: str = "high",
        duration_s: float | None = None,
    ) -> None:
        super().__init__(device, rate_hz, channels, chunk, latency)
        self._chunks = None if duration_s is None else max(1, -(-round(duration_s * rate_hz) // chunk))

    def run(self, put: Callable[[Chunk], bool], stop: threading.Event) -> None:
        taken = 0

        def callback(data: np.ndarray, frames: int, times: Any, status: Any) -> None:
            nonlocal taken
            self.failures += bool(status)
            if self._chunks is None or taken < self._chunks:
                put(Chunk(taken, time.monotonic(), data.copy()))
                taken += 1

        with (
            self._explained(),
            self._sd.InputStream(blocksize=self._chunk, **self._settings(callback)) as stream,
        ):
            self.latency_s = float(stream.latency)
            while not stop.wait(0.02) and (self._chunks is None or taken < self._chunks):
                if self._stopped.is_set():
                    raise AdjaxError("--input-device: the device stopped; was it unplugged?")


class DeviceSink(_Device):
    """A loudspeaker."""

    kind = "output"

    def run(self, playout: Playout) -> None:
        def callback(out: np.ndarray, frames: int, times: Any, status: Any) -> None:
            self.failures += bool(status) and playout.active
            out[:] = playout.pull(frames)
            if self.latency_s is not None and playout.pulled > START_LATENCIES * self.latency_s * self._rate:
                playout.ready.set()
            if playout.finished:
                raise self._sd.CallbackStop  # once what it has been given is played

        with self._explained(), self._sd.OutputStream(blocksize=0, **self._settings(callback)) as stream:
            self.latency_s = float(stream.latency)
            while not self._stopped.wait(0.02) and not playout.aborted:  # a device that hangs calls nothing back
                pass
        if not playout.finished:
            raise AdjaxError("--output-device: the device stopped; was it unplugged?")
