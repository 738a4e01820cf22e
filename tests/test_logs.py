"""Logs: records come back, resuming drops what the new run will write again, and other hosts stay silent."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from adjax.train.logs import Logs, spectrogram_image


def records(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]


def test_each_record_is_on_disk_when_written(tmp_path: Path) -> None:
    """Lines are read while the log is still open: what a killed run logged is there."""
    logs = Logs(tmp_path / "run", tensorboard=False)
    logs.scalars(1, {"loss": np.float32(0.5), "rate": 1})
    logs.scalars(2, {"loss": float("nan"), "rate": float("inf")})
    first, second = records(tmp_path / "run")
    assert (first["step"], first["loss"], first["rate"]) == (1, 0.5, 1.0)
    assert first["time"] > 1.6e9
    assert second["loss"] is None
    assert second["rate"] is None
    assert "NaN" not in (tmp_path / "run" / "log.jsonl").read_text()
    with pytest.raises(ValueError, match="step"):
        logs.scalars(3, {"step": 1.0})
    logs.close()
    logs.scalars(4, {"loss": 1.0})
    assert len(records(tmp_path / "run")) == 2


def test_truncate_after_drops_later_steps_and_goes_on(tmp_path: Path) -> None:
    with Logs(tmp_path, tensorboard=False) as logs:
        for step in range(1, 6):
            logs.scalars(step, {"a": step})
    with Logs(tmp_path, tensorboard=False) as logs:
        logs.truncate_after(3)
        logs.scalars(4, {"a": 40})
    assert [(r["step"], r["a"]) for r in records(tmp_path)] == [(1, 1), (2, 2), (3, 3), (4, 40)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.jsonl"]


def test_a_line_that_a_crash_tore_is_dropped(tmp_path: Path) -> None:
    """Otherwise the next record would be appended to it and both would be lost."""
    (tmp_path / "log.jsonl").write_text('{"step": 1, "time": 1.0, "a": 1}\n{"step": 2, "ti')
    with Logs(tmp_path, tensorboard=False) as logs:
        logs.scalars(2, {"a": 2})
    assert [r["step"] for r in records(tmp_path)] == [1, 2]


def test_other_hosts_write_nothing(tmp_path: Path) -> None:
    with Logs(tmp_path / "run", primary=False) as logs:
        logs.truncate_after(0)
        logs.scalars(1, {"a": 1})
        logs.audio(1, "a", np.zeros(10, np.float32), 8000)
        logs.spectrogram(1, "s", np.zeros(10, np.float32))
        logs.text(1, "t", "x")
        assert logs.progress(range(3), 0, 3).disable
    assert not (tmp_path / "run").exists()


def test_tensorboardx_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without_tensorboardx(name: str, *args, **kwargs):
        if name == "tensorboardX":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_tensorboardx)
    with Logs(tmp_path) as logs:
        logs.scalars(1, {"a": 1})
        logs.text(1, "t", "x")
    assert len(records(tmp_path)) == 1


def test_tensorboard_reads_the_events_back(tmp_path: Path) -> None:
    """After a resume TensorBoard must show the new run's values and not those of the steps that were dropped."""
    pytest.importorskip("tensorboardX")
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000).astype(np.float32)
    with Logs(tmp_path) as logs:
        for step in (1, 2, 3):
            logs.scalars(step, {"loss": step})
    with Logs(tmp_path) as logs:
        logs.truncate_after(2)
        logs.scalars(3, {"loss": 30})
        logs.audio(3, "sample", tone, 8000)
        logs.spectrogram(3, "picture", tone)
        logs.text(3, "note", "text")
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"audio": 0, "images": 0})
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    (audio,) = events.Audio("sample")
    assert (audio.step, audio.sample_rate) == (3, 8000)
    assert audio.encoded_audio_string[:4] == b"RIFF"
    (image,) = events.Images("picture")
    assert (image.height, image.width) == spectrogram_image(tone).shape[:2]
    assert any("note" in tag for tag in events.Tags()["tensors"])


def test_spectrogram_shows_a_tone_at_its_height() -> None:
    """A tone at a quarter of the rate lies in the middle bin; silence around it has the first colour, black."""
    tone = np.sin(np.pi / 2 * np.arange(8192)).astype(np.float32)
    image = spectrogram_image(tone)
    assert image.shape == (513, 33, 3)
    assert image.dtype == np.uint8
    brightness = image.astype(int).sum(-1)[:, 16]
    assert brightness.argmax() == 256
    assert (image[256, 16] == (255, 250, 190)).all()
    assert brightness[[20, 490]].max() == 0
    low = spectrogram_image(np.sin(0.1 * np.arange(8192)).astype(np.float32)).astype(int).sum(-1)[:, 16]
    assert low.argmax() > 480  # low frequencies are at the bottom
    assert spectrogram_image(np.zeros(10, np.float32)).max() == 0


def test_progress_is_quiet_in_a_pipe_and_shown_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Logs(tmp_path, tensorboard=False) as logs:
        assert list(logs.progress(range(2, 5), 2, 5)) == [2, 3, 4]
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        assert list(logs.progress(range(2, 5), 2, 5)) == [2, 3, 4]
        assert "5/5" in capsys.readouterr().err
