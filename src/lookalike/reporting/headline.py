"""The scores that come first: before, after, how sure they are, and beside another run's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lookalike.log import counted
from lookalike.metrics.bootstrap import Difference, Interval, differences, mean_intervals
from lookalike.reporting.evaluation_data import Evidence
from lookalike.reporting.report_data import Content

METRICS = (
    ("recall_at_1", "Recall@1", "the closest image is of the same class"),
    ("recall_at_8", "Recall@8", "one of the 8 closest is of the same class"),
    ("map_at_r", "MAP@R", "the whole neighbourhood, in order; chooses the model"),
    ("r_precision", "R-precision", "share of the class among the R closest"),
)


def headline(content: Content) -> list[dict[str, Any]]:
    """A tile for each metric that was measured."""
    start, last = _start(content), _last(content)
    sure = _intervals(content)
    tiles = []
    for key, name, meaning in METRICS:
        value = _value(content, key)
        if value is None:
            continue
        tiles.append(
            {
                "name": name,
                "meaning": meaning,
                "value": value,
                "interval": sure.get(key),
                "before": None if start is None else start.get(key),
                "last": None if last is None else last.get(key),
            }
        )
    return tiles


def verdict(content: Content) -> str:
    """The result in a sentence."""
    value, start = _value(content, "recall_at_1"), _start(content)
    if value is None:
        return "How well it retrieves was not measured: there was no validation list."
    place = _measured_on(content)
    if start is None:
        return (
            f"The closest image is of the same class in {100 * value:.1f} % of the queries{place}."
        )
    before, best = start["recall_at_1"], content.story.best
    if best is not None and best["step"] == 0:
        return (
            "Training did not improve MAP@R over the start: the model is the one from before the "
            f"first step, with Recall@1 {100 * value:.1f} %{place}."
        )
    way = "rose" if value > before else "fell" if value < before else "stayed"
    return f"Recall@1 {way} from {100 * before:.1f} % to {100 * value:.1f} %{place}."


def _measured_on(content: Content) -> str:
    evidence = content.evidence
    if evidence is None:
        return ""
    classes = len(set(evidence.labels.tolist()))
    seen = ""
    if evidence.trained is not None:
        known = int((evidence.trained[sorted(set(evidence.labels.tolist()))] > 0).sum())
        seen = (
            f", {known:,} of them seen in training" if known else ", none of them seen in training"
        )
    images = counted(len(evidence.labels), "image")
    return f", on {images} of {counted(classes, 'class', 'classes')}{seen}"


def side_by_side(content: Content) -> list[dict[str, Any]]:
    """The metrics of both runs, and the other's minus this one's, query by query.

    Without pictures, scores that were measured on different lists are not set side by side.
    """
    if content.other is None:
        return []
    if content.evidence is None and not content.comparable:
        return []
    ours, theirs = content.evidence, content.other_evidence
    rows = []
    real: Mapping[str, Difference] = {}
    if ours is not None and theirs is not None:
        real = differences(ours.per_query.values, theirs.per_query.values, ours.asked)
    for key, name, _ in METRICS:
        if ours is not None and theirs is not None:
            here, there = mean(ours, key), mean(theirs, key)
        else:
            best, other = content.story.best, content.other.best
            if best is None or other is None or key not in best or key not in other:
                continue
            here, there = best[key], other[key]
        rows.append(
            {
                "name": name,
                "here": here,
                "there": there,
                "gain": there - here,
                "interval": real.get(key),
            }
        )
    return rows


def mean(evidence: Evidence, key: str) -> float:
    """The mean of a metric over the queries."""
    values = evidence.per_query.values[key].tolist()
    return math.fsum(values) / len(values)


def _intervals(content: Content) -> Mapping[str, Interval]:
    """Of what `_value` says; of a sample of the queries where only that was looked at."""
    evidence = content.evidence
    if evidence is None:
        return {}
    return mean_intervals(evidence.per_query.values, evidence.asked)


def _value(content: Content, key: str) -> float | None:
    """The model's score; where only a sample of the queries was looked at, the run's own."""
    evidence, best = content.evidence, content.story.best
    if evidence is not None and not (evidence.sampled and content.own and best is not None):
        return mean(evidence, key)
    if best is None or not content.own:
        return None
    return best.get(key)


def _start(content: Content) -> Mapping[str, Any] | None:
    """The evaluation before the first step, if it was on the same list."""
    measured = content.story.measured
    return measured[0] if content.own and measured and measured[0]["step"] == 0 else None


def _last(content: Content) -> Mapping[str, Any] | None:
    """The last evaluation, if it is neither the first nor the best, on the same list."""
    measured, best = content.story.measured, content.story.best
    if not content.own or len(measured) < 3 or best is None:
        return None
    return None if measured[-1]["step"] == best["step"] else measured[-1]
