"""What the page offers: the models whose weights are at hand, their chunk lengths and numbers of codebooks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adjax import weights
from adjax.config import ModelConfig
from adjax.errors import AdjaxError
from adjax.live.engine import check_codebooks
from adjax.live.web.protocol import Change, ProtocolError, Start
from adjax.streaming import Codec

CHUNK_FRAMES = (1, 2, 4, 8, 16)  # offered as far as they are no longer than MAX_CHUNK_MS
MAX_CHUNK_MS = 200.0


class Models:
    """The models that a server offers, each loaded when it is first wanted.

    `model`, a name or folder, is the one that is chosen when the page opens. Raises AdjaxError for a model that cannot
    be found or used and for a `chunk_ms` or `codebooks` that it does not have.
    """

    def __init__(self, model: str | None = None, chunk_ms: float = 25.0, codebooks: int | None = None) -> None:
        if chunk_ms > MAX_CHUNK_MS:
            raise AdjaxError(f"--chunk-ms is {chunk_ms:g}, but with --web it is {MAX_CHUNK_MS:g} at most")
        folder = weights.find_model(model)
        config = weights.read_config(folder / weights.CONFIG_FILE)
        if reason := _unusable(config):
            raise AdjaxError(f"--web: model '{config.name}' {reason}")
        self._folders = {config.name: folder}
        self._configs = {config.name: config}
        for name, other, config_of in _others():
            if name not in self._configs and not _unusable(config_of):
                self._folders[name], self._configs[name] = other, config_of
        self._chunk_ms = chunk_ms
        self._codecs: dict[str, Codec] = {}
        codec = self.load(config.name)
        self.chosen = Start(config.name, self._frames_of_ms(config), check_codebooks(codec, codebooks), False)

    def _frames_of_ms(self, config: ModelConfig) -> int:
        return max(1, round(self._chunk_ms * config.sample_rate_hz / 1000 / config.hop_samples))

    def chunk_frames(self, name: str) -> list[int]:
        """Frames of a chunk that the page may choose: few, since a program is compiled for each."""
        config = self._configs[name]
        most = MAX_CHUNK_MS * config.sample_rate_hz / 1000 / config.hop_samples
        return sorted({*(n for n in CHUNK_FRAMES if n <= most or n == 1), self._frames_of_ms(config)})

    def describe(self) -> list[dict[str, Any]]:
        """A row a model for the page."""
        return [
            {
                "name": name,
                "sample_rate_hz": config.sample_rate_hz,
                "hop_samples": config.hop_samples,
                "delay_samples": config.delay_samples,
                "codebooks": config.quantizer.codebooks,
                "kbps": config.bitrate_bps / 1000,
                "chunk_frames": self.chunk_frames(name),
            }
            for name, config in self._configs.items()
        ]

    @property
    def most_samples(self) -> int:
        """Samples of the longest chunk of any model."""
        return max(config.hop_samples * self.chunk_frames(name)[-1] for name, config in self._configs.items())

    def check(self, name: str, wanted: Start | Change) -> None:
        """Raises ProtocolError for settings that were not offered."""
        if name not in self._configs:
            raise ProtocolError(f"model {name[:40]!r} is not offered; {', '.join(self._configs)} are")
        offered, most = self.chunk_frames(name), self._configs[name].quantizer.codebooks
        if wanted.chunk_frames not in offered:
            raise ProtocolError(f"chunk_frames must be one of {', '.join(map(str, offered))}")
        if not 1 <= wanted.codebooks <= most:
            raise ProtocolError(f"codebooks must be 1 to {most}")

    def load(self, name: str) -> Codec:
        """The codec, read when it is first wanted; for one thread at a time. Raises AdjaxError if it cannot be read."""
        if name not in self._codecs:
            self._codecs[name] = Codec.load(self._folders[name])
        return self._codecs[name]

    def prepare(self, name: str, wanted: Start | Change) -> Codec:
        """The codec with what these settings need compiled; for one thread at a time."""
        codec = self.load(name)
        codec.compile(1, wanted.chunk_frames, wanted.codebooks)
        return codec


def _others() -> Iterator[tuple[str, Path, ModelConfig]]:
    """Name, folder and configuration of the models that lie where those that come with adjax lie."""
    for folder in weights.checkpoint_folders():
        for path in sorted(folder.glob(f"*/{weights.CONFIG_FILE}")):
            yield path.parent.name, path.parent, weights.read_config(path)


def _unusable(config: ModelConfig) -> str | None:
    if not config.encoder.causal:
        return "is not causal: it codes whole signals, not streams"
    return None if config.audio_channels == 1 else "codes several channels together; the page has one"
