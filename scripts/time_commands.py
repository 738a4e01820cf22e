"""Wall clock of the commands on the first five seconds of the example, cold and with a warm compilation cache.

Usage: python scripts/time_commands.py [RUNS]
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import soundfile

EXAMPLE = Path(__file__).parent.parent / "examples" / "speech48.flac"


def seconds(command: list[str], cache: Path) -> tuple[float, str]:
    """Wall clock of a command that must succeed, and what it printed."""
    start = time.perf_counter()
    environment = {**os.environ, "ADJAX_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, "-m", "adjax", *command], env=environment, check=True, capture_output=True)
    return time.perf_counter() - start, done.stdout.decode()


def main(runs: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        audio, rate = soundfile.read(EXAMPLE, stop=5 * 48000)
        speech, coded, decoded = folder / "speech.wav", folder / "speech.adjx", folder / "decoded.wav"
        soundfile.write(speech, audio, rate)
        for title, command in (
            ("--help", ["--help"]),
            ("encode, 5 s", ["encode", str(speech), str(coded)]),
            ("decode, 5 s", ["decode", str(coded), str(decoded), "--rate", "input"]),
        ):
            cold, _ = seconds(command, folder / "cache")
            rows = [seconds(command, folder / "cache") for _ in range(runs)]
            times = [row[0] for row in rows]
            factors = [float(f) for row in rows for f in re.findall(r"real-time factor ([\d.]+)", row[1])]
            speed = f"; real-time factor, median {statistics.median(factors):.4f}" if factors else ""
            print(f"{title}: cold {cold:.2f} s; warm median {statistics.median(times):.2f} s", end=" ")
            print(f"({min(times):.2f} to {max(times):.2f}, {runs} runs){speed}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
