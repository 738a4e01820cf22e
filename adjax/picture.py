"""Spectrograms as a picture, with numpy and Pillow alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from adjax.metrics import amplitudes

RANGE_DB = 90.0
_WIDTH, _HEIGHT = 1100, 300  # of a panel
_LEFT, _RIGHT, _TOP, _GAP, _BOTTOM, _BAR = 70, 110, 40, 52, 52, 18
Font: TypeAlias = ImageFont.ImageFont | ImageFont.FreeTypeFont
_INK, _PAPER = (30, 30, 30), (255, 255, 255)
# Of a dark to bright map, evenly spaced: equal steps of level are about equal steps of brightness.
_COLOURS = ((0, 0, 8), (48, 13, 92), (122, 28, 109), (190, 55, 82), (237, 105, 37), (251, 180, 26), (252, 253, 191))


def spectrograms(panels: Mapping[str, np.ndarray], sample_rate_hz: int) -> Image.Image:
    """One spectrogram a panel, stacked, of float[samples] by title: seconds across, kHz up, dB as colour.

    All panels share the level of the loudest point of the first, 0 dB, and the range RANGE_DB below it.
    """
    levels = {title: levels_db(signal, sample_rate_hz) for title, signal in panels.items()}
    top = peak_db(next(iter(levels.values())))
    height = _TOP + len(panels) * (_HEIGHT + _GAP) - _GAP + _BOTTOM
    image = Image.new("RGB", (_LEFT + _WIDTH + _RIGHT, height), _PAPER)
    draw, font, bold = ImageDraw.Draw(image), ImageFont.load_default(15), ImageFont.load_default(18)
    y = _TOP
    for title, level in levels.items():
        image.paste(coloured(level, top), (_LEFT, y))
        draw.rectangle((_LEFT - 1, y - 1, _LEFT + _WIDTH, y + _HEIGHT), outline=_INK)
        draw.text((_LEFT, y - 8), title, _INK, bold, anchor="ls")
        nyquist = sample_rate_hz / 2000
        for khz in _ticks(nyquist, 6):
            at = y + _HEIGHT - 1 - khz / nyquist * (_HEIGHT - 1)
            draw.line((_LEFT - 6, at, _LEFT - 1, at), _INK)
            draw.text((_LEFT - 10, at), f"{khz:g}", _INK, font, anchor="rm")
        _rotated(image, "kHz", (8, y + _HEIGHT // 2), font)
        y += _HEIGHT + _GAP
    bottom = y - _GAP
    seconds = max(len(signal) for signal in panels.values()) / sample_rate_hz
    for second in _ticks(seconds, 10):
        at = _LEFT + second / seconds * (_WIDTH - 1)
        draw.line((at, bottom, at, bottom + 6), _INK)
        draw.text((at, bottom + 10), f"{second:g}", _INK, font, anchor="ma")
    draw.text((_LEFT + _WIDTH / 2, bottom + 30), "time in s", _INK, font, anchor="ma")
    _legend(image, draw, font, bottom)
    return image


def levels_db(signal: np.ndarray, sample_rate_hz: int, width: int = _WIDTH, height: int = _HEIGHT) -> np.ndarray:
    """Levels float64[height, width] in dB of float[samples]: all its time across, high frequencies first."""
    return 20 * np.log10(np.maximum(_resized(signal, sample_rate_hz, width, height), 1e-12))


def peak_db(levels: np.ndarray) -> float:
    """The level of the loudest point, for silence -120 dB."""
    return max(float(levels.max()), -120.0)


def coloured(levels: np.ndarray, top_db: float) -> Image.Image:
    """The picture of `levels_db`, RANGE_DB down from `top_db`, without axes."""
    return Image.fromarray(_colours(1 + (levels - top_db) / RANGE_DB))


def _legend(image: Image.Image, draw: ImageDraw.ImageDraw, font: Font, bottom: int) -> None:
    x = _LEFT + _WIDTH + 24
    ramp = np.linspace(1, 0, bottom - _TOP)[:, None].repeat(_BAR, axis=1)
    image.paste(Image.fromarray(_colours(ramp)), (x, _TOP))
    draw.rectangle((x - 1, _TOP - 1, x + _BAR, bottom), outline=_INK)
    for level in range(0, -int(RANGE_DB) - 1, -15):
        at = _TOP - level / RANGE_DB * (bottom - _TOP - 1)
        draw.line((x + _BAR, at, x + _BAR + 5, at), _INK)
        draw.text((x + _BAR + 9, at), f"{level}", _INK, font, anchor="lm")
    draw.text((x + _BAR / 2, _TOP - 8), "dB", _INK, font, anchor="ms")


def _resized(signal: np.ndarray, sample_rate_hz: int, width: int, height: int) -> np.ndarray:
    """Amplitudes [height, width], high frequencies first: a frame a column, power means over the bins of a row."""
    size = 2048 if sample_rate_hz > 32000 else 1024  # about 50 ms, but more bins than rows
    centres = (np.arange(width) + 0.5) * len(signal) / width
    padded = np.pad(np.asarray(signal, np.float64), size)
    columns = np.stack([amplitudes(padded[c + size // 2 :][:size], size)[0] for c in centres.astype(int)], axis=1)
    edges = np.linspace(0, len(columns), height + 1).astype(int)
    return np.sqrt(np.add.reduceat(columns**2, edges[:-1], axis=0) / np.diff(edges)[:, None])[::-1]


def _colours(shares: np.ndarray) -> np.ndarray:
    """uint8[..., 3] of shares 0 to 1 of the range."""
    stops = np.linspace(0, 1, len(_COLOURS))
    return np.stack([np.interp(shares, stops, c) for c in np.transpose(_COLOURS)], axis=-1).round().astype(np.uint8)


def _ticks(end: float, most: int) -> np.ndarray:
    """Round numbers from 0 to `end`, about `most` of them."""
    rough = end / most
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough)
    return np.round(np.arange(0, end * (1 + 1e-9), step), 6)


def _rotated(image: Image.Image, text: str, centre: tuple[int, int], font: Font) -> None:
    label = Image.new("RGB", (60, 20), _PAPER)
    ImageDraw.Draw(label).text((30, 10), text, _INK, font, anchor="mm")
    label = label.rotate(90, expand=True)
    image.paste(label, (centre[0], centre[1] - label.height // 2))
