"""Charts: curves of metrics.jsonl and histograms as the coordinates of an SVG.

By hand, as no dependency of the package draws: a plotting library would weigh more than all
pages, and put a megabyte of its script into each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_POINTS = 180
"""Points of a line: more steps are averaged in as many intervals."""

HEIGHT = 196
WIDTH, WIDE = 348, 1060
"""About the size of a chart on a telephone and across a desktop: texts keep their size."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 26
_LOG_RATIO = 300  # of the largest to the smallest value: more is drawn on a logarithmic axis
_MOST_DOTS = 60

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Line:
    """A line of a chart, n points.

    Attributes:
        steps: (n,) ascending.
        values: (n,), NaN for none; means, where steps were averaged.
        low: (n,) minimum of the averaged steps.
        high: (n,) maximum of the averaged steps.
        dots: mark each point.
        other: of the run that is compared with.
    """

    name: str
    steps: np.ndarray
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    dots: bool = False
    other: bool = False


@dataclass(frozen=True)
class Curve:
    """A chart of one or more lines.

    Attributes:
        lines: at least one.
        percent: values are fractions of 1.
        from_zero: the axis includes zero.
        logarithmic: the axis may be logarithmic, if the values span much.
        best: step to mark, None for none.
    """

    title: str
    lines: list[Line]
    percent: bool = False
    from_zero: bool = True
    logarithmic: bool = False
    best: int | None = None


@dataclass(frozen=True)
class Tick:
    """A mark on an axis, at `place` in pixels."""

    place: float
    text: str


_VALIDATION = {
    "recall_at_1": "Recall@1",
    "map_at_r": "MAP@R",
    "r_precision": "R-precision",
    "accuracy": "accuracy by class centres",
}
_TRAINING = (
    ("Learning rate", "lr"),
    ("Gradient norm", "grad_norm"),
    ("Images per second", "images_per_second"),
    ("Share of time waiting for images", "waiting"),
)


def metric_curves(metrics: Records, other: Records = (), *, best: int | None) -> list[Curve]:
    """The charts of a run's metrics.jsonl, with the lines of another run; `best` is a step."""
    found = []
    measured = [
        line
        for key, name in _VALIDATION.items()
        for line in _lines(name, key, metrics, other, measured=True)
    ]
    if measured:
        found.append(Curve("Validation", measured, percent=True, from_zero=False, best=best))
    losses = _lines("loss", "loss", metrics, other)
    keys = {key: None for record in metrics for key in record if key.endswith("_loss")}
    if len(keys) > 1:
        for key in keys:
            losses += _lines(key.replace("_", " "), key, metrics, ())
    if losses:
        found.append(Curve("Loss", losses, logarithmic=True))
    for title, key in _TRAINING:
        if lines := _lines(title.lower(), key, metrics, other):
            found.append(
                Curve(title, lines, percent=key == "waiting", logarithmic=key == "grad_norm")
            )
    skipped = _lines("skipped steps", "skipped", metrics, other)
    if any(line.high.max(initial=0) > 0 for line in skipped):
        found.append(Curve("Skipped steps (loss not finite)", skipped))
    return found


def _lines(
    name: str, key: str, metrics: Records, other: Records, *, measured: bool = False
) -> list[Line]:
    """The line of this run, and that of the other run behind it."""
    lines = []
    for records, is_other in ((metrics, False), (other, True)):
        points = [r for r in records if key in r and ("recall_at_1" in r) == measured]
        if points:
            lines.append(_line(name, key, points, dots=measured, other=is_other))
    return lines


def _line(name: str, key: str, records: Records, *, dots: bool, other: bool) -> Line:
    steps = np.array([record["step"] for record in records], float)
    values = np.array([np.nan if r[key] is None else r[key] for r in records], float)
    if len(steps) <= MOST_POINTS:
        return Line(name, steps, values, values, values, dots and len(steps) <= _MOST_DOTS, other)
    parts = np.array_split(np.arange(len(steps)), MOST_POINTS)
    finite = [values[part][np.isfinite(values[part])] for part in parts]
    finite = [part if len(part) else np.array([np.nan]) for part in finite]
    return Line(
        name,
        np.array([steps[part].mean() for part in parts]),
        np.array([part.mean() for part in finite]),
        np.array([part.min() for part in finite]),
        np.array([part.max() for part in finite]),
        other=other,
    )


def draw(curve: Curve) -> dict[str, Any]:
    """Variables of the macro `chart`."""
    lines = curve.lines
    steps = np.concatenate([line.steps for line in lines])
    finite = [v[np.isfinite(v)] for line in lines for v in (line.low, line.high, line.values)]
    values = np.concatenate(finite)
    if not len(values):
        return {"title": curve.title, "empty": True, "logarithmic": False}
    logarithmic = (
        curve.logarithmic and values.min() > 0 and bool(values.max() / values.min() > _LOG_RATIO)
    )
    if logarithmic:
        values = np.log10(values)
    x_low, x_high = 0.0, float(steps.max())  # all charts of a run have the same axis
    x_ticks, _, _ = nice(x_low, x_high, 4)
    low, high = float(values.min()), float(values.max())
    if curve.from_zero and not logarithmic:
        low, high = min(low, 0.0), max(high, 0.0)
    y_ticks, low, high = nice(low, high, 4)
    if curve.percent:
        high = min(high, 1.0) if high > 1 and values.max() <= 1 else high
        y_ticks = [tick for tick in y_ticks if low <= tick <= high + 1e-9]
    if logarithmic:
        y_ticks = [10.0**tick for tick in y_ticks if tick == round(tick)]

    def x_of(step: float) -> float:
        inner = WIDTH - _LEFT - _RIGHT
        return _LEFT + inner * ((step - x_low) / (x_high - x_low) if x_high > x_low else 0.5)

    def y_of(value: float) -> float:
        inner = HEIGHT - _TOP - _BOTTOM
        value = math.log10(value) if logarithmic else value
        return HEIGHT - _BOTTOM - inner * ((value - low) / (high - low) if high > low else 0.5)

    def text_of(value: float) -> str:
        return f"{100 * value:.4g} %" if curve.percent else number(value)

    return {
        "title": curve.title,
        "width": WIDTH,
        "height": HEIGHT,
        "left": _LEFT,
        "right": WIDTH - _RIGHT,
        "bottom": HEIGHT - _BOTTOM,
        "top": _TOP,
        "x": [Tick(x_of(t), number(t)) for t in x_ticks if x_low <= t <= x_high],
        "y": [Tick(y_of(t), text_of(t)) for t in y_ticks],
        "lines": [_draw_line(*one, x_of, y_of, text_of) for one in _numbered(lines)],
        "names": [f"{line.name} (other)" if line.other else line.name for line in lines],
        "legend": [(line.name, colour) for colour, line in _numbered(lines) if not line.other],
        "best": None if curve.best is None else x_of(curve.best),
        "logarithmic": logarithmic,
    }


def _numbered(lines: list[Line]) -> list[tuple[int, Line]]:
    """Each line with the number of its colour, which both runs share."""
    names = list(dict.fromkeys(line.name for line in lines))
    return [(names.index(line.name), line) for line in lines]


def _draw_line(
    colour: int,
    line: Line,
    x_of: Callable[[float], float],
    y_of: Callable[[float], float],
    text_of: Callable[[float], str],
) -> dict[str, Any]:
    points = []
    path, pen = [], "M"
    for step, value in zip(line.steps.tolist(), line.values.tolist(), strict=True):
        if not math.isfinite(value):
            pen = "M"
            continue
        x, y = round(x_of(step), 1), round(y_of(value), 1)
        points.append([x, y, number(step), text_of(value)])
        path.append(f"{pen}{x} {y}")
        pen = "L"
    return {
        "name": line.name,
        "colour": colour,
        "other": line.other,
        "path": "".join(path),
        "band": _band(line, x_of, y_of),
        "dots": [point[:2] for point in points] if line.dots or len(points) == 1 else [],
        "points": points,
    }


def _band(line: Line, x_of: Callable[[float], float], y_of: Callable[[float], float]) -> str:
    """The area between minimum and maximum; "" where nothing was averaged."""
    finite = np.isfinite(line.low)
    if not bool(np.any(line.high[finite] > line.low[finite])):
        return ""
    steps = line.steps[finite].tolist()
    over = zip(steps, line.high[finite].tolist(), strict=True)
    under = zip(steps[::-1], line.low[finite][::-1].tolist(), strict=True)
    corners = [f"{x_of(x):.1f} {y_of(y):.1f}" for x, y in [*over, *under]]
    return "M" + "L".join(corners) + "Z"


def draw_histogram(
    same: np.ndarray, different: np.ndarray, *, threshold: float | None, width: int = WIDE
) -> dict[str, Any]:
    """Variables of the macro `histogram`: two areas over the cosine from -1 to 1.

    `same` and `different` are (B,) counts of pairs of one class and of two.
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

    def x_of(cosine: float) -> float:
        return _LEFT + (width - _LEFT - _RIGHT) * (cosine - low) / (high - low)

    areas = []
    for counts in (different, same):
        share = counts / max(1, counts.sum())
        tall = share / max(share.max(), 1e-12)
        first, last = np.flatnonzero(counts)[[0, -1]] if counts.sum() else (0, -1)
        path = [f"M{x_of(edges[first]):.1f} {HEIGHT - _BOTTOM}"]
        for i in range(first, last + 1):
            y = HEIGHT - _BOTTOM - (HEIGHT - _BOTTOM - _TOP) * tall[i]
            path.append(f"L{x_of(edges[i]):.1f} {y:.1f}L{x_of(edges[i + 1]):.1f} {y:.1f}")
        path.append(f"L{x_of(edges[last + 1]):.1f} {HEIGHT - _BOTTOM}Z")
        areas.append("".join(path))
    return {
        "width": width,
        "height": HEIGHT,
        "left": _LEFT,
        "right": width - _RIGHT,
        "top": _TOP,
        "bottom": HEIGHT - _BOTTOM,
        "x": [Tick(x_of(t), f"{t:g}") for t in ticks if low <= t <= high],
        "different": areas[0],
        "same": areas[1],
        "threshold": None if threshold is None else x_of(threshold),
    }


def nice(low: float, high: float, count: int) -> tuple[list[float], float, float]:
    """About `count` round values from `low` to `high`, the first and the last of them.

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
    """A short form: `0.0005` as `5e-4`, `12000` as `12,000`."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < 1e-3 or abs(value) >= 1e7:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"
