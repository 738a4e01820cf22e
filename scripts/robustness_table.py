"""What a model does to signals that are not clean speech at its own rate, from synthetic signals: docs/quality.md.

Usage: python scripts/robustness_table.py [MODEL]      (the default model without one; metrics as `adjax evaluate` has)

Levels are RMS in dB of full scale; metrics that have no value are "-". The voice is synthetic: a gliding pitch through
three formants, in syllables. It compares signals with one another, not codecs with figures on speech.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from adjax import evaluate
from adjax.evaluate.output import markdown
from adjax.evaluate.systems import read_audio

SECONDS = 3.0
FORMANTS_HZ, BANDWIDTH_HZ = (600.0, 1400.0, 2700.0), 150.0
COLUMNS = ("pesq_wb", "stoi", "log_spectral_distance", "mel_distance", "si_sdr_db")


def voice(rate: int, pitch_hz: float = 120.0) -> np.ndarray:
    """float64[samples]: harmonics under formants, four syllables a second, a little breath; RMS of 0.1 at most."""
    t = np.arange(int(SECONDS * rate)) / rate
    pitch = pitch_hz * (1 + 0.2 * np.sin(2 * np.pi * 0.7 * t))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    sound = 1e-3 * np.random.default_rng(0).standard_normal(len(t))
    syllables = np.maximum(0, np.sin(2 * np.pi * 2 * t)) ** 0.5
    for k in range(1, int(0.45 * rate / pitch_hz / 1.2)):
        gain = sum(1 / (1 + ((k * pitch_hz - f) / BANDWIDTH_HZ) ** 2) for f in FORMANTS_HZ) / k**0.5
        sound += gain * syllables * np.cos(k * phase)
    return 0.1 * sound / max(np.sqrt(np.mean(sound**2)), 1e-9)


def music(rate: int) -> np.ndarray:
    """float64[samples]: plucked chords of three notes with decaying harmonics, a new one every half second."""
    t = np.arange(int(SECONDS * rate)) / rate
    sound = np.zeros(len(t))
    for start, notes in enumerate([(0, 4, 7), (5, 9, 12), (7, 11, 14), (0, 4, 7), (9, 12, 16), (5, 9, 12)]):
        after = t - 0.5 * start
        decay = np.where(after >= 0, np.exp(-5 * np.maximum(after, 0)), 0)
        for note in notes:
            for k in range(1, 12):
                sound += decay**k * np.sin(2 * np.pi * k * 220 * 2 ** (note / 12) * after) / k
    return 0.1 * sound / np.sqrt(np.mean(sound**2))


def signals() -> dict[str, tuple[np.ndarray, int]]:
    """float64[samples] or [samples, channels] within full scale, and the rate in Hz, by name."""
    rate, rng = 48000, np.random.default_rng(1)
    samples = int(SECONDS * rate)
    made = {
        "voice": (voice(rate), rate),
        "voice, clipped": (20 * voice(rate), rate),
        "voice, 40 dB down": (0.01 * voice(rate), rate),
        "voice in white noise, 10 dB": (voice(rate) + 0.0316 * rng.standard_normal(samples), rate),
        "voice, 8 kHz": (voice(8000), 8000),
        "voice, 44.1 kHz": (voice(44100), 44100),
        "voice, 96 kHz": (voice(96000), 96000),
        "two voices, stereo": (np.stack([voice(rate), voice(rate, 190.0)], axis=1), rate),
        "music-like": (music(rate), rate),
        "white noise": (0.1 * rng.standard_normal(samples), rate),
        "sine, 1 kHz, full scale": (np.sin(2 * np.pi * 1000 * np.arange(samples) / rate), rate),
        "digital silence": (np.zeros(samples), rate),
    }
    return {name: (np.clip(sound, -1, 1), rate) for name, (sound, rate) in made.items()}


def level(path: Path) -> str:
    power = np.mean(read_audio(path)[0].astype(np.float64) ** 2)
    return f"{10 * np.log10(power):.1f}" if power else "silent"


def main(model: str | None) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        names = list(signals())
        folder, made = Path(temporary) / "signals", Path(temporary) / "made"
        folder.mkdir()
        for i, (sound, rate) in enumerate(signals().values()):
            soundfile.write(folder / f"{i:02}.flac", sound, rate, subtype="PCM_16")
        systems = evaluate.model_systems([model], [])
        results = evaluate.evaluate(evaluate.find_items([folder]), systems, made, save_audio=True)
        metrics = [metric for metric in results["metrics"] if metric["name"] in COLUMNS]
        head = ["signal", "in, dB", "out, dB", "clipped samples"]
        table = [[*head, *(m["label"] + (f", {m['unit']}" if m["unit"] else "") for m in metrics)]]
        for row in results["rows"]:
            levels = [level(made / row[kind]) for kind in ("natural_audio", "decoded_audio")]
            found = [row["raw"].get(m["name"]) for m in metrics]
            cells = ["-" if v is None else f"{v:.{m['decimals']}f}" for v, m in zip(found, metrics, strict=True)]
            table.append([names[int(row["file"])], *levels, str(row["clipped"]), *cells])
        print(f"{systems[0].name}\n\n{markdown(table)}")
        for lost in results["failures"]:
            print(f"{names[int(lost['file'])]}: {lost['reason']}", file=sys.stderr)
        if results["failures"]:
            sys.exit(1)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    main(*(sys.argv[1:] or [None]))
