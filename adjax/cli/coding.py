"""`adjax encode`, `decode` and `roundtrip`."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import adjax
from adjax import files
from adjax.cache import enable_compilation_cache
from adjax.chunks import Times
from adjax.errors import AdjaxError
from adjax.streaming import Codec

METRICS = {
    "pesq_wb": "PESQ-WB {:.2f}",
    "stoi": "STOI {:.3f}",
    "log_spectral_distance": "LSD {:.2f} (log10 power)",
    "mel_distance": "mel distance {:.2f}",
    "si_sdr_db": "SI-SDR {:.1f} dB",
}


def encode(arguments: Namespace) -> None:
    target = arguments.output or Path(arguments.input).with_suffix(".adjx")
    codec = _load(arguments.model)
    with progress_bar("encoding") as progress:
        report = files.encode_file(codec, arguments.input, target, arguments.codebooks, progress)
    print(f"{target}: {describe(report)}; model {codec.config.name}")
    print(f"payload {report.payload_kbps:.2f} kbps, file {report.file_kbps:.2f} kbps ({report.file_bytes} bytes)")
    print(f"encoding {speed(report.times)}")


def decode(arguments: Namespace) -> None:
    target = arguments.output or Path(arguments.input).with_suffix(".wav")
    if not arguments.output and target.exists():
        raise AdjaxError(f"{target}: is there already, perhaps the original; to replace it, name it as OUT.wav")
    codec = _load(arguments.model)
    with progress_bar("decoding") as progress:
        report = files.decode_file(
            codec, arguments.input, target, arguments.rate == "model", arguments.skip_damaged, progress
        )
    print(f"{target}: {describe(report)}; model {codec.config.name}")
    print(f"decoding {speed(report.times)}")
    warn(report)


def roundtrip(arguments: Namespace) -> None:
    codec = _load(arguments.model)
    with progress_bar("coding") as progress:
        report = files.roundtrip_file(codec, arguments.input, arguments.output, arguments.codebooks, progress)
    written, restored = report.encode, report.decode
    print(f"{arguments.output}: {describe(restored)}; model {codec.config.name}")
    print(f"payload {written.payload_kbps:.2f} kbps, file {written.file_kbps:.2f} kbps")
    print(f"encoding {speed(written.times)}")
    print(f"decoding {speed(restored.times)}")
    scores = [METRICS[name].format(value) for name, value in report.quality.items()]
    part = "" if restored.duration_s <= files.QUALITY_LIMIT_S else f" (first {files.QUALITY_LIMIT_S} s)"
    print(f"quality{part}: {', '.join(scores)}")
    missing = [METRICS[name].split()[0] for name in ("pesq_wb", "stoi") if name not in report.quality]
    if missing:
        print(f"without {' and '.join(missing)}: too little speech, or `adjax[evaluation]` is not installed")
    print(f"spectrograms: {report.picture}")
    warn(restored)


def describe(report: files.EncodeReport | files.DecodeReport) -> str:
    """Duration and form of the audio."""
    channels = "1 channel" if report.channels == 1 else f"{report.channels} channels"
    return f"{report.duration_s:.2f} s, {report.samples} samples, {channels}, {report.sample_rate_hz} Hz"


def speed(times: Times) -> str:
    """How fast the computation was."""
    factor = times.real_time_factor
    compiled = f"; {times.compile_s:.1f} s before that to compile or load from the cache" if times.compile_s else ""
    return f"{1 / factor:.1f} x real time (real-time factor {factor:.4f}){compiled}"


def warn(report: files.DecodeReport) -> None:
    for warning in report.warnings:
        print(f"adjax: warning: {warning}", file=sys.stderr)
    if report.clipped:
        print(f"adjax: warning: {report.clipped} samples were outside -1 to 1 and clipped", file=sys.stderr)


@contextmanager
def progress_bar(label: str) -> Iterator[files.Progress | None]:
    """A bar in seconds of audio on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc=label, unit=" s", leave=False) as bar:

        def update(done_s: float, total_s: float | None) -> None:
            bar.total = None if total_s is None else round(total_s)
            bar.update(round(done_s) - bar.n)

        yield update


def _load(model: str | None) -> Codec:
    enable_compilation_cache()
    return adjax.load(model)
