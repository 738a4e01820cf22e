"""Line charts as SVG that takes its colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = 8  # classes line0, line1, … of the style sheet
_WIDTH, _HEIGHT = 440, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 36


@dataclass(frozen=True)
class Series:
    """A curve; a dashed one shares the colour of the curve before it."""

    label: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """Curves over steps; with `log` all values are above zero."""

    title: str
    series: Sequence[Series]
    log: bool = False
    from_zero: bool = False


def figure(chart: Chart) -> str:
    """The chart with its title, and a legend that gives the last values."""
    colours = _colours(chart.series)
    keys = "".join(
        f'<li><svg class="key" viewBox="0 0 24 8" aria-hidden="true">'
        f'<path class="line line{colour}{" dashed" if s.dashed else ""}" d="M0 4H24"/></svg>'
        f"{escape(s.label)} <b>{s.points[-1][1]:.4g}</b></li>"
        for s, colour in zip(chart.series, colours, strict=True)
    )
    scale = ", logarithmic" if chart.log else ""
    return (
        f'<figure class="chart"><figcaption>{escape(chart.title)}{scale}</figcaption>{_svg(chart, colours)}'
        f'<ul class="legend">{keys}</ul></figure>'
    )


def _svg(chart: Chart, colours: Sequence[int]) -> str:
    xs = [x for s in chart.series for x, _ in s.points]
    ys = [y for s in chart.series for _, y in s.points]
    left, right = (0.0 if min(xs) < 0.1 * max(xs) else min(xs)), max(xs)
    low, high = min(ys), max(ys)
    if chart.log:
        ticks = _log_ticks(low, high)
        low, high = math.log10(min(low, ticks[0])), math.log10(max(high, ticks[-1]))
        if high == low:
            low, high = low - 0.5, high + 0.5
    else:
        ticks = _ticks(min(low, 0.0) if chart.from_zero else low, high, 5)
        low, high = min(low, ticks[0]), max(high, ticks[-1])
    across, up = max(right - left, 1e-12), max(high - low, 1e-12)

    def x_at(x: float) -> float:
        return _LEFT + (x - left) / across * (_WIDTH - _LEFT - _RIGHT)

    def y_at(y: float) -> float:
        return _HEIGHT - _BOTTOM - ((math.log10(y) if chart.log else y) - low) / up * (_HEIGHT - _TOP - _BOTTOM)

    bottom = _HEIGHT - _BOTTOM
    parts = []
    for tick in ticks:
        y = y_at(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_brief(tick)}</text>')
    for tick in _ticks(left, right, 5):
        if left <= tick <= right:
            x = x_at(tick)
            parts.append(f'<path class="axis" d="M{x:.1f} {bottom}v5"/>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{_brief(tick)}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {bottom}H{_WIDTH - _RIGHT}"/>')
    parts.append(f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 3}" text-anchor="middle">step</text>')
    for series, colour in zip(chart.series, colours, strict=True):
        path = "L".join(f"{x_at(x):.1f} {y_at(y):.1f}" for x, y in series.points)
        if len(series.points) == 1:
            path += "h0"  # a round cap makes it a dot
        parts.append(f'<path class="line line{colour}{" dashed" if series.dashed else ""}" d="M{path}"/>')
    label = escape(f"{chart.title} over training steps: " + "; ".join(_spoken(s) for s in chart.series))
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _spoken(series: Series) -> str:
    return f"{series.label} from {series.points[0][1]:.3g} to {series.points[-1][1]:.3g}"


def _colours(series: Sequence[Series]) -> list[int]:
    """A colour for each; a dashed curve takes that of the curve before it where this has the same name."""
    made: list[int] = []
    following = 0
    for i, s in enumerate(series):
        if s.dashed and i and s.label.startswith(series[i - 1].label):
            made.append(made[-1])
            continue
        made.append(following % COLOURS)
        following += 1
    return made


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers that enclose `low` to `high`, about `most` of them."""
    span = high - low if high > low else max(abs(high), 1.0)
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= span / most * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten that enclose the range; over three decades powers alone."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1,) if math.log10(high / low) > 3 else (1, 2, 5)
    ticks = [float(f"{m}e{d}") for d in decades for m in steps]
    first = max((i for i, t in enumerate(ticks) if t <= low), default=0)
    last = min((i for i, t in enumerate(ticks) if t >= high), default=len(ticks) - 1)
    return ticks[first : last + 1][:: max(1, (last - first) // 12)]


def _brief(value: float) -> str:
    """A short label: 30k, 0.05, 1e-5."""
    if abs(value) >= 1000:
        return f"{value / 1000:g}k"
    return f"{value:g}".replace("e-0", "e-")
