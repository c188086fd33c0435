"""Page of a search: scores by trial and time, each setting against the score, all trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from lookalike import pages
from lookalike.log import counted, duration
from lookalike.planning.search_state import Trial
from lookalike.reporting.charts import Curve, Line, draw

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 348, 196, 46, 14, 12, 26  # pixels


def render(trials: Sequence[Trial], result: str, *, better: bool, output: str) -> str:
    """The page as one HTML file."""
    scored = [one for one in trials if not one.failed]
    best = max(scored, key=lambda one: one.score)
    spent = list(accumulate(one.seconds for one in trials))
    names = list(best.settings)
    minutes = np.array(spent) / 60
    return pages.render(
        "tune.html.j2",
        result=result,
        better=better,
        best=best,
        facts=[
            ("trials", f"{counted(len(trials), 'trial')}, {len(trials) - len(scored)} failed"),
            ("time", duration(spent[-1])),
            (
                "score",
                "mean of Recall@1 and MAP@R on the half of the held-out classes that chooses",
            ),
            ("directory", output),
        ],
        charts=[
            draw(_curve("Score by trial", np.arange(len(trials)), trials, best.trial)),
            draw(_best_so_far(minutes, trials)),
        ],
        effects=[_effect(name, scored, best) for name in names],
        names=names,
        rows=[
            (one, [_shown(one.settings[name]) for name in names])
            for one in sorted(trials, key=lambda one: -one.score)
        ],
    )


def _curve(title: str, x: np.ndarray, trials: Sequence[Trial], best: int) -> Curve:
    values = np.array([math.nan if one.failed else one.score for one in trials])
    line = Line("score", x.astype(float), values, values, values, dots=True)
    return Curve(title, [line], percent=True, from_zero=False, best=best)


def _best_so_far(minutes: np.ndarray, trials: Sequence[Trial]) -> Curve:
    values = np.maximum.accumulate([one.score for one in trials])
    line = Line("best so far", minutes, values, values, values, dots=True)
    return Curve("Best score so far, by minutes", [line], percent=True, from_zero=False)


def _effect(name: str, trials: Sequence[Trial], best: Trial) -> dict[str, Any]:
    """Dots of the score over the values of a setting; values that are no numbers stand apart."""
    numbers = [one for one in trials if _is_number(one.settings[name])]
    unset = [one for one in trials if one.settings[name] is None]
    numeric = bool(numbers) and len(numbers) + len(unset) == len(trials)
    if numeric:
        trials = numbers
    values = [one.settings[name] for one in trials]
    distinct = sorted(set(values)) if numeric else sorted(set(values), key=str)
    even = not numeric or len(distinct) <= 3
    logarithmic = not even and distinct[0] > 0 and distinct[-1] / distinct[0] >= 10
    places = [
        float(distinct.index(v)) if even else math.log(v) if logarithmic else float(v)
        for v in values
    ]
    scores = [one.score for one in trials]

    def scaled(value: float, of: list[float], begin: float, length: float) -> float:
        low, high = min(of), max(of)
        return round(begin + length * ((value - low) / (high - low) if high > low else 0.5), 1)

    across, down = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    shown = distinct if even else [distinct[0], distinct[-1]]
    return {
        "name": name,
        "logarithmic": logarithmic,
        "dots": [
            {
                "x": scaled(place, places, _LEFT + 8, across - 16),
                "y": scaled(one.score, scores, _HEIGHT - _BOTTOM - 6, 12 - down),
                "best": one is best,
                "start": one.trial == 0,
                "text": f"trial {one.trial}: {_shown(one.settings[name])}, {100 * one.score:.1f} %",
            }
            for place, one in zip(places, trials, strict=True)
        ],
        "x": [
            (scaled(places[values.index(v)], places, _LEFT + 8, across - 16), _shown(v))
            for v in shown
        ],
        "y": [
            (scaled(s, scores, _HEIGHT - _BOTTOM - 6, 12 - down), f"{100 * s:.1f} %")
            for s in sorted({min(scores), max(scores)})
        ],
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
