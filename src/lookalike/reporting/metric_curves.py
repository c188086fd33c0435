"""What metrics.jsonl says, as the lines of charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_POINTS = 180
"""Points of a line: more are summed up in as many spans of steps."""

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Line:
    """A line of a chart, n points.

    Attributes:
        name: what the legend says.
        steps: (n,) ascending.
        values: (n,), NaN where there is none; means, where points were summed up.
        low: (n,) the least of what was summed up.
        high: (n,) the most of it.
        dots: whether each point was measured by itself and is worth a dot.
        other: whether it is of the run that is compared with.
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
    """A chart to be drawn.

    Attributes:
        title: what it shows.
        lines: at least one.
        percent: whether values are fractions of 1.
        from_zero: whether zero belongs into the picture.
        powers: whether values that span much may be drawn in powers of ten.
        best: the step to mark, None for none.
    """

    title: str
    lines: list[Line]
    percent: bool = False
    from_zero: bool = True
    powers: bool = False
    best: int | None = None


_VALIDATION = {
    "recall_at_1": "Recall@1",
    "map_at_r": "MAP@R",
    "r_precision": "R-precision",
    "accuracy": "accuracy by class centres",
}
_TRAINING = (
    ("Learning rate", "lr"),
    ("Gradient norm", "grad_norm"),
    ("Images a second", "images_per_second"),
    ("Time spent waiting for images", "waiting"),
)


def curves(metrics: Records, other: Records = (), *, best: int | None) -> list[Curve]:
    """The charts of a run, and of another one that it is compared with.

    Args:
        metrics: the objects of metrics.jsonl.
        other: those of the other run.
        best: the step of the best measurement.
    """
    found = []
    measured = [
        line
        for key, name in _VALIDATION.items()
        for line in _lines(name, key, metrics, other, measured=True)
    ]
    if measured:
        found.append(Curve("Validation", measured, percent=True, from_zero=False, best=best))
    losses = _lines("loss", "loss", metrics, other)
    parts = [key for key in _keys(metrics) if key.endswith("_loss")]
    if len(parts) > 1:
        for key in parts:
            losses += _lines(key.replace("_", " "), key, metrics, ())
    if losses:
        found.append(Curve("Loss", losses, powers=True))
    for title, key in _TRAINING:
        if lines := _lines(title.lower(), key, metrics, other):
            found.append(Curve(title, lines, percent=key == "waiting", powers=key == "grad_norm"))
    skipped = _lines("steps left out", "skipped", metrics, other)
    if any(line.high.max(initial=0) > 0 for line in skipped):
        found.append(Curve("Steps left out, as the loss was not finite", skipped))
    return found


def _keys(records: Records) -> dict[str, None]:
    return {key: None for record in records for key in record}


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
        return Line(name, steps, values, values, values, dots and len(steps) <= 60, other)
    spans = np.array_split(np.arange(len(steps)), MOST_POINTS)
    finite = [values[span][np.isfinite(values[span])] for span in spans]
    nothing = np.array([np.nan])
    finite = [part if len(part) else nothing for part in finite]
    return Line(
        name,
        np.array([steps[span].mean() for span in spans]),
        np.array([part.mean() for part in finite]),
        np.array([part.min() for part in finite]),
        np.array([part.max() for part in finite]),
        other=other,
    )
