"""Scores at the top of a report: before and after training, with intervals, and of both runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lookalike.log import counted
from lookalike.metrics.bootstrap import Difference, Interval, differences, mean_intervals
from lookalike.reporting.evaluation_data import EvaluationData
from lookalike.reporting.report_data import ReportData

METRICS = (
    ("recall_at_1", "Recall@1", "the nearest image is of the same class"),
    ("recall_at_8", "Recall@8", "one of the 8 nearest images is of the same class"),
    ("map_at_r", "MAP@R", "precision over the whole class, by rank; selects the model"),
    ("r_precision", "R-precision", "share of the same class among the R nearest images"),
)


def score_tiles(data: ReportData) -> list[dict[str, Any]]:
    """A tile for each metric that was measured."""
    start, last = _start(data), _last(data)
    intervals = _intervals(data)
    tiles = []
    for key, name, meaning in METRICS:
        value = _value(data, key)
        if value is None:
            continue
        tiles.append(
            {
                "name": name,
                "meaning": meaning,
                "value": value,
                "interval": intervals.get(key),
                "before": None if start is None else start.get(key),
                "last": None if last is None else last.get(key),
            }
        )
    return tiles


def headline(data: ReportData) -> str:
    """The result in a sentence."""
    value, start = _value(data, "recall_at_1"), _start(data)
    if value is None:
        return "Retrieval was not measured: there was no validation list."
    where = _measured_on(data)
    if start is None:
        return (
            f"The nearest image is of the same class for {100 * value:.1f} % of the queries{where}."
        )
    before, best = start["recall_at_1"], data.history.best
    if best is not None and (best["step"] == 0 or best.get("interpolation") == 0):
        return (
            "Training gained nothing: the model is the one from before the first step, with "
            f"Recall@1 {100 * value:.1f} %{where}."
        )
    change = "rose" if value > before else "fell" if value < before else "stayed"
    result = f"Recall@1 {change} from {100 * before:.1f} % to {100 * value:.1f} %{where}."
    if _start_would_do(data, start):
        result += (
            " The model before training would do as well: its Recall@1 and MAP@R are not below "
            "the intervals of these."
        )
    return result


def _start_would_do(data: ReportData, start: Mapping[str, Any]) -> bool:
    """True if neither score of the start is below the interval of the model's."""
    intervals = _intervals(data)
    return bool(intervals) and all(
        start[key] >= intervals[key].low for key in ("recall_at_1", "map_at_r")
    )


def _measured_on(data: ReportData) -> str:
    evaluation = data.evaluation
    if evaluation is None:
        return ""
    classes = sorted(set(evaluation.labels.tolist()))
    seen = ""
    if evaluation.trained is not None:
        known = int((evaluation.trained[classes] > 0).sum())
        seen = (
            f", {known:,} of them seen in training" if known else ", none of them seen in training"
        )
    images = counted(len(evaluation.labels), "image")
    return f", on {images} of {counted(len(classes), 'class', 'classes')}{seen}"


def compare_scores(data: ReportData) -> list[dict[str, Any]]:
    """The metrics of both runs, and the other's minus this one's, query by query.

    Without an evaluation, scores that were measured on different lists are not compared.
    """
    ours, theirs = data.evaluation, data.other_evaluation
    if data.other is None or (ours is None and not data.comparable):
        return []
    intervals: Mapping[str, Difference] = {}
    if ours is not None and theirs is not None:
        intervals = differences(ours.per_query.values, theirs.per_query.values, ours.query_classes)
    rows = []
    for key, name, _ in METRICS:
        if ours is not None and theirs is not None:
            here, there = mean(ours, key), mean(theirs, key)
        else:
            best, other = data.history.best, data.other.best
            if best is None or other is None or key not in best or key not in other:
                continue
            here, there = best[key], other[key]
        rows.append(
            {
                "name": name,
                "here": here,
                "there": there,
                "gain": there - here,
                "interval": intervals.get(key),
            }
        )
    return rows


def mean(evaluation: EvaluationData, key: str) -> float:
    """The mean of a metric over the queries."""
    values = evaluation.per_query.values[key].tolist()
    return math.fsum(values) / len(values)


def _intervals(data: ReportData) -> Mapping[str, Interval]:
    evaluation = data.evaluation
    if evaluation is None:
        return {}
    return mean_intervals(evaluation.per_query.values, evaluation.query_classes)


def _value(data: ReportData, key: str) -> float | None:
    """The model's score; the training's own where only a sample of the queries was evaluated."""
    evaluation, best = data.evaluation, data.history.best
    if evaluation is not None and not (evaluation.sampled and data.own and best is not None):
        return mean(evaluation, key)
    if best is None or not data.own:
        return None
    return best.get(key)


def _start(data: ReportData) -> Mapping[str, Any] | None:
    """The evaluation before the first step, if it was on the same list."""
    measured = data.history.measured
    return measured[0] if data.own and measured and measured[0]["step"] == 0 else None


def _last(data: ReportData) -> Mapping[str, Any] | None:
    """The last evaluation, if it is neither the first nor the best, on the same list."""
    measured, best = data.history.measured, data.history.best
    if not data.own or len(measured) < 3 or best is None:
        return None
    return None if measured[-1]["step"] == best["step"] else measured[-1]
