"""`adjax statistics`."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from adjax import audio, chunks
from adjax.cache import enable_compilation_cache
from adjax.cli.coding import progress_bar
from adjax.errors import AdjaxError
from adjax.files import Progress
from adjax.streaming import Codec
from adjax.train import data
from adjax.train.data import Source
from adjax.train.statistics import Moments


def run(arguments: Namespace) -> None:
    enable_compilation_cache()
    codec = Codec.load(arguments.model)
    sources, report = data.scan(arguments.paths, codec.sample_rate, codec.audio_channels, minimum_samples=0)
    print(f"adjax: {report}", file=sys.stderr)
    with progress_bar("statistics") as progress:
        moments = latent_moments(codec, sources, progress)
    write_moments(Path(arguments.output), moments)
    print(f"{arguments.output}: mean and deviation of {moments.count} latents from {len(sources)} files")


def latent_moments(codec: Codec, sources: Sequence[Source], progress: Progress | None = None) -> Moments:
    """Moments of the quantized latents of whole files, each channel coded as the files' commands code it.

    The last hop of a file is filled up with zeros. Memory is constant for causal models. Raises AdjaxError for a file
    that cannot be read to its end.
    """
    embed = np.asarray(codec.tree["codebook"]["quantizer"]["embed"])
    moments, rate, hop = Moments(embed.shape[-1]), codec.sample_rate, codec.hop_length
    done, total = 0.0, sum(s.frames / s.sample_rate_hz for s in sources)

    def whole_hops(source: Source) -> Iterator[np.ndarray]:
        given = 0
        for block in blocks(source, rate):
            given += len(block)
            yield block
        yield np.zeros((-given % hop, source.channels), np.float32)

    for source in sources:
        streams = source.channels // codec.audio_channels
        for codes in chunks.encoded(codec, whole_hops(source), streams, chunks.Times()):
            zq = embed[0][codes[..., 0]]
            for i in range(1, len(embed)):
                zq = zq + embed[i][codes[..., i]]
            moments.add(zq)
        done += source.frames / source.sample_rate_hz
        if progress:
            progress(done, total)
    return moments


def blocks(source: Source, sample_rate_hz: int) -> Iterator[np.ndarray]:
    """All samples of a file or of a prepared set's entry at `sample_rate_hz`, float32[samples, channels] at a time."""
    if source.records is None:
        with audio.open_audio(source.path) as reader:
            yield from audio.resample(reader.blocks(), reader.sample_rate_hz, sample_rate_hz)
        return
    for start in range(0, source.frames, sample_rate_hz):  # a prepared set is at the model's sample rate
        try:
            yield data.read_span(source, start, min(sample_rate_hz, source.frames - start), sample_rate_hz)
        except data.Damaged as error:
            raise AdjaxError(f"{source.path}: {error}") from error


def write_moments(target: Path, moments: Moments) -> None:
    """A .npy file of float32: means in row 0, population standard deviations in row 1."""
    table = np.stack([moments.mean, moments.deviation]).astype(np.float32)
    if constant := [str(i) for i in np.flatnonzero(~(table[1] > 0))]:
        raise AdjaxError(f"{target}: not written: channels {', '.join(constant[:5])} of the latents never change")
    with audio.replacing(target) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array(file, table, version=(1, 0), allow_pickle=False)
