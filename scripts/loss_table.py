"""Quality against packet loss, as a Markdown table: the receiver's own code on simulated packets, without a network.

Usage: python scripts/loss_table.py FILE_OR_FOLDER [...] [--model M] [--chunk-ms T] [--seeds N]
(PESQ-WB and STOI need the extra `evaluation`)

Every file is sent in packets of a chunk; each packet but the first is lost with the rate of the row, on its own or in
bursts of three on average. Means over files and seeds; the model's delay is made up for.
"""

from __future__ import annotations

import argparse

import numpy as np
import soundfile
import soxr

import adjax
from adjax.live import Receiver, frames_of_ms
from adjax.live.packet import Format, Packet, build
from adjax.metrics import quality
from adjax.streaming import Codec
from adjax.train.data import find_audio

RATES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
BURST_PACKETS = 3
COLUMNS = {"pesq_wb": 2, "stoi": 3, "mel_distance": 3}


def losses(count: int, rate: float, burst: float, rng: np.random.Generator) -> np.ndarray:
    """Which of `count` packets are lost: a two-state Markov chain with bursts of `burst` packets on average."""
    leave = 1 / burst
    enter = min(1.0, rate * leave / max(1e-9, 1 - rate))
    lost, out = False, np.zeros(count, bool)
    for i in range(1, count):
        lost = rng.random() >= leave if lost else rng.random() < enter
        out[i] = lost
    return out


def received(codec: Codec, codes: np.ndarray, lost: np.ndarray, chunk_frames: int) -> tuple[np.ndarray, int]:
    """Samples that a receiver plays for codes int32[frames, codebooks], and the frames it concealed."""
    form, receiver, now = Format.of(codec), Receiver(codec, chunk_frames, 0.06), 0.0
    period = chunk_frames * codec.hop_length / codec.sample_rate
    parts = []
    for i, gone in enumerate(lost):
        first = i * chunk_frames
        if not gone:
            packet = Packet(1, i, first, codes[first : first + chunk_frames])
            receiver.datagram(build(packet, form), "sender", now)
        if i == len(lost) - 1:
            receiver.datagram(build(Packet(1, len(lost), len(codes), codes[:0]), form), "sender", now)
        parts.append(receiver.play(now))
        now += period
    while not receiver.streams_ended:
        parts.append(receiver.play(now))
        now += period
    return np.concatenate([part for part in parts if part is not None])[:, 0], receiver.concealed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--model")
    parser.add_argument("--chunk-ms", type=float, default=25.0)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    codec = adjax.load(arguments.model)
    chunk_frames = frames_of_ms(codec, arguments.chunk_ms)
    signals = []
    for path in find_audio(arguments.files):
        natural, rate = soundfile.read(path, dtype="float32", always_2d=True)
        natural = soxr.resample(natural[:, 0], rate, codec.sample_rate)
        signals.append((natural, np.asarray(codec.encode(np.pad(natural, (0, codec.delay))[None, :, None]))[0]))
    seconds = sum(len(natural) for natural, _ in signals) / codec.sample_rate
    print(f"{codec.config.name}, {len(signals)} files, {seconds:.0f} s, {arguments.seeds} seeds")
    print("| loss | pattern | frames concealed | " + " | ".join(COLUMNS) + " |")
    print("| ---: | --- | ---: |" + " ---: |" * len(COLUMNS))
    for rate in RATES:
        for pattern, burst in (("single", 1 / max(1e-9, 1 - rate)), ("bursts", BURST_PACKETS))[: 2 if rate else 1]:
            rows, frames, concealed = [], 0, 0
            for seed in range(arguments.seeds if rate else 1):
                rng = np.random.default_rng(seed)
                for natural, codes in signals:
                    lost = losses(-(-len(codes) // chunk_frames), rate, burst, rng)
                    sound, missing = received(codec, codes, lost, chunk_frames)
                    sound = sound[codec.delay :][: len(natural)]
                    rows.append(quality(natural, sound, codec.sample_rate))
                    frames, concealed = frames + len(codes), concealed + missing
            cells = [f"{100 * rate:g} %", pattern if rate else "", f"{100 * concealed / frames:.1f} %"]
            for name, digits in COLUMNS.items():
                values = [row[name] for row in rows if name in row]
                cells.append(f"{np.mean(values):.{digits}f}" if values else "")
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
