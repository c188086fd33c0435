"""Charts as the numbers that an SVG wants: places, paths and ticks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lookalike.reporting.metric_curves import Curve, Line

HEIGHT = 196
WIDTH, WIDE = 348, 1060
"""About the size that a chart has on a telephone and across a desktop: texts keep their size."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 26
_SPREAD = 300  # from the smallest to the largest value: more is drawn in powers of ten


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its place in pixels, and its text."""

    place: float
    text: str


def draw(curve: Curve) -> dict[str, Any]:
    """What the template `chart` shows."""
    lines = curve.lines
    steps = np.concatenate([line.steps for line in lines])
    finite = [v[np.isfinite(v)] for line in lines for v in (line.low, line.high, line.values)]
    values = np.concatenate(finite)
    if not len(values):
        return {"title": curve.title, "empty": True}
    powers = _in_powers(curve, values)
    if powers:
        values = np.log10(values)
    x_low, x_high = 0.0, float(steps.max())  # all charts of a run have the same axis
    x_ticks, _, _ = nice(x_low, x_high, 4)
    low, high = float(values.min()), float(values.max())
    if curve.from_zero and not powers:
        low, high = min(low, 0.0), max(high, 0.0)
    y_ticks, low, high = nice(low, high, 4)
    if curve.percent:
        high = min(high, 1.0) if high > 1 and values.max() <= 1 else high
        y_ticks = [tick for tick in y_ticks if low <= tick <= high + 1e-9]

    def across(step: float) -> float:
        inner = WIDTH - _LEFT - _RIGHT
        return _LEFT + inner * ((step - x_low) / (x_high - x_low) if x_high > x_low else 0.5)

    def down(value: float) -> float:
        inner = HEIGHT - _TOP - _BOTTOM
        value = math.log10(value) if powers else value
        return HEIGHT - _BOTTOM - inner * ((value - low) / (high - low) if high > low else 0.5)

    def shown(value: float) -> str:
        return f"{100 * value:.4g} %" if curve.percent else number(value)

    return {
        "title": curve.title,
        "width": WIDTH,
        "height": HEIGHT,
        "left": _LEFT,
        "right": WIDTH - _RIGHT,
        "bottom": HEIGHT - _BOTTOM,
        "top": _TOP,
        "x": [Tick(across(t), number(t)) for t in x_ticks if x_low <= t <= x_high],
        "y": [Tick(down(t), shown(t)) for t in _marks(y_ticks, powers)],
        "lines": [_drawn(*one, across, down, shown) for one in _numbered(lines)],
        "names": [f"{line.name} (other)" if line.other else line.name for line in lines],
        "legend": [(line.name, colour) for colour, line in _numbered(lines) if not line.other],
        "best": None if curve.best is None else across(curve.best),
        "powers": powers,
    }


def _in_powers(curve: Curve, values: np.ndarray) -> bool:
    if not curve.powers or values.min() <= 0:
        return False
    return bool(values.max() / values.min() > _SPREAD)


def _numbered(lines: list[Line]) -> list[tuple[int, Line]]:
    """Each line with the number of its colour; the other run's has that of ours."""
    names = list(dict.fromkeys(line.name for line in lines))
    return [(names.index(line.name), line) for line in lines]


def _drawn(
    colour: int,
    line: Line,
    across: Callable[[float], float],
    down: Callable[[float], float],
    shown: Callable[[float], str],
) -> dict[str, Any]:
    points = []
    path, pen = [], "M"
    for step, value in zip(line.steps.tolist(), line.values.tolist(), strict=True):
        if not math.isfinite(value):
            pen = "M"
            continue
        x, y = round(across(step), 1), round(down(value), 1)
        points.append([x, y, number(step), shown(value)])
        path.append(f"{pen}{x} {y}")
        pen = "L"
    return {
        "name": line.name,
        "colour": colour,
        "other": line.other,
        "path": "".join(path),
        "band": _band(line, across, down),
        "dots": [point[:2] for point in points] if line.dots or len(points) == 1 else [],
        "points": points,
    }


def _band(line: Line, across: Callable[[float], float], down: Callable[[float], float]) -> str:
    """The area from the least to the most of what was summed up; empty where nothing was."""
    there = np.isfinite(line.low)
    if not bool(np.any(line.high[there] > line.low[there])):
        return ""
    steps = line.steps[there].tolist()
    over = zip(steps, line.high[there].tolist(), strict=True)
    under = zip(steps[::-1], line.low[there][::-1].tolist(), strict=True)
    corners = [f"{across(x):.1f} {down(y):.1f}" for x, y in [*over, *under]]
    return "M" + "L".join(corners) + "Z"


def _marks(ticks: list[float], powers: bool) -> list[float]:
    """The values at an axis' ticks; of an axis in powers of ten the whole powers."""
    return [10.0**t for t in ticks if t == round(t)] if powers else ticks


def draw_histogram(
    same: np.ndarray, different: np.ndarray, *, threshold: float | None, width: int = WIDE
) -> dict[str, Any]:
    """What the template `histogram` shows: two areas over the cosine from -1 to 1.

    Args:
        same: (B,) counts of pairs of a class.
        different: (B,) counts of pairs of two classes.
        threshold: to mark.
        width: in pixels.
    """
    edges = np.linspace(-1, 1, len(same) + 1)
    used = np.flatnonzero(same + different)
    low = math.floor(10 * edges[used[0]] + 1e-9) / 10
    high = math.ceil(10 * edges[used[-1] + 1] - 1e-9) / 10
    if threshold is not None:
        low, high = (
            min(low, math.floor(10 * threshold) / 10),
            max(high, math.ceil(10 * threshold) / 10),
        )
    ticks, _, _ = nice(low, high, 4 if width == WIDTH else 8)

    def across(cosine: float) -> float:
        return _LEFT + (width - _LEFT - _RIGHT) * (cosine - low) / (high - low)

    areas = []
    for counts in (different, same):
        share = counts / max(1, counts.sum())
        tall = share / max(share.max(), 1e-12)
        first, last = np.flatnonzero(counts)[[0, -1]] if counts.sum() else (0, -1)
        path = [f"M{across(edges[first]):.1f} {HEIGHT - _BOTTOM}"]
        for i in range(first, last + 1):
            y = HEIGHT - _BOTTOM - (HEIGHT - _BOTTOM - _TOP) * tall[i]
            path.append(f"L{across(edges[i]):.1f} {y:.1f}L{across(edges[i + 1]):.1f} {y:.1f}")
        path.append(f"L{across(edges[last + 1]):.1f} {HEIGHT - _BOTTOM}Z")
        areas.append("".join(path))
    return {
        "width": width,
        "height": HEIGHT,
        "left": _LEFT,
        "right": width - _RIGHT,
        "top": _TOP,
        "bottom": HEIGHT - _BOTTOM,
        "x": [Tick(across(t), f"{t:g}") for t in ticks if low <= t <= high],
        "different": areas[0],
        "same": areas[1],
        "threshold": None if threshold is None else across(threshold),
    }


def nice(low: float, high: float, count: int) -> tuple[list[float], float, float]:
    """About `count` round values from `low` to `high`, and the outermost of them.

    >>> nice(0.0, 0.93, 4)[0]
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    if high <= low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [round(i * step, 12) for i in range(first, last + 1)]
    return ticks, ticks[0], ticks[-1]


def number(value: float) -> str:
    """A number as short as it may be: `0.0005` as `5e-4`, `12000` as `12,000`."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < 1e-3 or abs(value) >= 1e7:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"
