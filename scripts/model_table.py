"""Size, speed and memory of full-size models with random weights, each in a process of its own, as a table.

Usage: model_table.py AUDIO [MODEL ...]   (default: the published models)
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

MODELS = ("symad48", "symad48-v0", "symad48-v1", "symad48-v2", "symad24", "symad24-v1")


def measure(name: str, audio: Path, folder: Path) -> dict[str, float]:
    """Encodes and decodes a file; seconds of computation per second of audio, and the process's peak memory."""
    from adjax import zoo
    from adjax.benchmark import random_variables
    from adjax.files import decode_file, encode_file
    from adjax.streaming import Codec

    config = zoo.MODELS[name]
    codec = Codec(config, random_variables(config))
    coded, sound = folder / "coded.adjx", folder / "sound.wav"
    encoded = [encode_file(codec, audio, coded).times.real_time_factor for _ in range(3)]
    decoded = [decode_file(codec, coded, sound).times.real_time_factor for _ in range(3)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "parameters": codec.num_parameters / 1e6,
        "encode": sorted(encoded)[1],
        "decode": sorted(decoded)[1],
        "peak_mb": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("audio", type=Path)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(arguments.models[0], arguments.audio, Path(folder))))
        return
    print("| model | parameters, M | encode, RTF | decode, RTF | peak memory, MB |")
    print("| --- | --- | --- | --- | --- |")
    for name in arguments.models:
        command = [sys.executable, __file__, str(arguments.audio), name, "--one"]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        numbers = f"{row['parameters']:.2f} | {row['encode']:.3f} | {row['decode']:.3f} | {row['peak_mb']:.0f}"
        print(f"| {name} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
