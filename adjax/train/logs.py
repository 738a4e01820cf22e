"""Logs of a training run: one JSON line a record always, TensorBoard where it is installed, progress on a terminal."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from adjax.errors import AdjaxError

FFT_SAMPLES, HOP_SAMPLES = 1024, 256
DYNAMIC_RANGE_DB = 80.0
# Anchors of the spectrogram's colours, quiet to loud: lightness rises evenly, so that the picture survives in grey.
COLOURS = np.array([(0, 0, 0), (45, 15, 90), (135, 30, 110), (215, 70, 70), (245, 155, 50), (255, 250, 190)])

_log = logging.getLogger(__name__)


class Logs:
    """The records of one run in `run_dir`: `log.jsonl`, and event files for TensorBoard in `tensorboard`.

    Only the primary host writes; on the others every method does nothing. Use as a context manager, or call `close`.
    """

    def __init__(self, run_dir: str | Path, tensorboard: bool = True, primary: bool = True) -> None:
        self._primary = primary
        self._tensorboard = tensorboard and primary
        self._folder = Path(run_dir)
        self._path = self._folder / "log.jsonl"
        self._purge_step: int | None = None
        self._writer: Any = None
        self._file: IO[str] | None = None
        if primary:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._reopen(None)

    def truncate_after(self, step: int) -> None:
        """Drop the records of steps after `step`, before a run resumes there; TensorBoard is told to hide its own."""
        if self._primary:
            self._close_files()
            self._purge_step = step + 1
            self._reopen(step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Append {"step": …, "time": seconds since 1970, name: value, …}; values that are not finite become null.

        Raises AdjaxError where the file cannot be written, as on a full disk.
        """
        if not self._file:
            return
        if reserved := {"step", "time"} & values.keys():
            raise ValueError(f"a scalar cannot be called {', '.join(sorted(reserved))}: the record has it already")
        numbers = {name: float(value) for name, value in values.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        try:
            self._file.write(json.dumps({"step": int(step), "time": round(time.time(), 3), **finite}) + "\n")
        except OSError as error:
            raise AdjaxError(f"{self._path}: cannot write the log of step {step}: {error.strerror}") from error
        if writer := self._open_writer():
            for name, value in numbers.items():
                writer.add_scalar(name, value, step)

    def audio(self, step: int, tag: str, samples: np.ndarray, sample_rate_hz: int) -> None:
        """Show float32[samples] or float32[samples, channels] in TensorBoard, clipped to [-1, 1]."""
        if writer := self._open_writer():
            writer.add_audio(tag, np.clip(np.asarray(samples, np.float32), -1, 1), step, sample_rate_hz)

    def spectrogram(self, step: int, tag: str, samples: np.ndarray) -> None:
        """Show the log-magnitude STFT of float32[samples] in TensorBoard: time to the right, frequency upwards."""
        if writer := self._open_writer():
            writer.add_image(tag, spectrogram_image(samples), step, dataformats="HWC")

    def text(self, step: int, tag: str, text: str) -> None:
        """Show `text` (Markdown) in TensorBoard."""
        if writer := self._open_writer():
            writer.add_text(tag, text, step)

    def progress(self, steps: Iterable[int], first: int, total: int) -> Any:
        """`steps` as a tqdm bar from `first` to `total`, shown only if standard error is a terminal."""
        from tqdm import tqdm

        hidden = not (self._primary and sys.stderr.isatty())
        return tqdm(steps, initial=first, total=total, unit="step", dynamic_ncols=True, smoothing=0.05, disable=hidden)

    def close(self) -> None:
        """Flush and close every file."""
        self._close_files()
        self._primary = self._tensorboard = False

    def __enter__(self) -> Logs:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except OSError as error:
            if kind is None:  # else what ends the run is the better message: both met the same full disk
                raise AdjaxError(f"{self._folder}: cannot write the logs: {error.strerror}") from error

    def _reopen(self, last_step: int | None) -> None:
        """Open the log to append, without a line that a crash left half-written and the steps after `last_step`."""
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            kept = [line for line in lines if _keep(line, last_step)]
            if kept != lines:
                beside = self._path.with_name(self._path.name + ".tmp")
                beside.write_text("".join(kept), encoding="utf-8")
                os.replace(beside, self._path)
        self._file = self._path.open("a", encoding="utf-8", buffering=1)

    def _open_writer(self) -> Any:
        """TensorBoard's writer, opened when first needed; None if it is off or tensorboardX is not installed."""
        if self._tensorboard and self._writer is None:
            try:
                from tensorboardX import SummaryWriter
            except ImportError:
                _log.info("tensorboardX is not installed (pip install adjax[tensorboard]): logging to JSON lines only")
                self._tensorboard = False
            else:
                # tensorboardX names files by the second and would overwrite one that was opened in the same second.
                suffix = f".{time.time_ns()}"
                folder = str(self._folder / "tensorboard")
                self._writer = SummaryWriter(folder, purge_step=self._purge_step, filename_suffix=suffix)
        return self._writer

    def _close_files(self) -> None:
        if self._file:
            self._file.close()
        if self._writer:
            self._writer.close()
        self._file = self._writer = None


def _keep(line: str, last_step: int | None) -> bool:
    try:
        return line.endswith("\n") and (last_step is None or json.loads(line)["step"] <= last_step)
    except (ValueError, KeyError, TypeError):
        return False


def spectrogram_image(samples: np.ndarray) -> np.ndarray:
    """Log-magnitude STFT of float32[samples] as uint8[bins, frames, 3], low frequencies at the bottom.

    The loudest bin has the last colour, what lies 80 dB or more below it the first.
    """
    signal = np.pad(np.asarray(samples, np.float32).reshape(-1), FFT_SAMPLES // 2)
    frames = np.lib.stride_tricks.sliding_window_view(signal, FFT_SAMPLES)[::HOP_SAMPLES]
    magnitude = np.abs(np.fft.rfft(frames * np.hanning(FFT_SAMPLES), axis=1))
    decibels = 20 * np.log10(np.maximum(magnitude / max(magnitude.max(), 1e-5), 1e-10))
    level = np.clip(1 + decibels / DYNAMIC_RANGE_DB, 0, 1) * (len(COLOURS) - 1)
    anchors = np.arange(len(COLOURS))
    image = np.stack([np.interp(level, anchors, COLOURS[:, c]) for c in range(3)], axis=-1)
    return image.round().astype(np.uint8).transpose(1, 0, 2)[::-1]
