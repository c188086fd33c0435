"""Scores by level of the hierarchy, and by the query's class, training images and category."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lookalike.metrics.query_groups import QueryGroup, score_groups
from lookalike.reporting.evaluation_data import EvaluationData

METRICS = ("recall_at_1", "map_at_r")

_MOST_CATEGORIES = 12


@dataclass(frozen=True)
class Breakdown:
    """The queries in groups."""

    title: str
    note: str
    groups: list[QueryGroup]


def breakdowns(evaluation: EvaluationData) -> list[Breakdown]:
    """All breakdowns with two groups or more."""
    classes = evaluation.query_classes
    parts = [
        (
            "By size of the class",
            "other images of the query's class",
            _by_number(evaluation.per_query.relevant.numpy()),
        )
    ]
    if evaluation.trained is not None and evaluation.trained.any():
        trained = _by_number(evaluation.trained[classes])
        parts.append(("By training images", "of the query's class", trained))
    parts.append(("By category", "as in the list", _by_category(evaluation)))
    values = {metric: evaluation.per_query.values[metric] for metric in METRICS}
    found = [
        Breakdown(title, note, score_groups(values, classes, masks)) for title, note, masks in parts
    ]
    return [one for one in (_by_level(evaluation), *found) if len(one.groups) > 1]


def _by_level(evaluation: EvaluationData) -> Breakdown:
    """All queries with their own classes, and with the coarser ones of each level."""
    groups = []
    for name, measured in (("label", evaluation.per_query), *evaluation.levels):
        classes = evaluation.labels[measured.rows]
        values = {metric: measured.values[metric] for metric in METRICS}
        everything = np.ones(len(classes), dtype=bool)
        groups += score_groups(values, classes, {name: everything})
    return Breakdown("By level", "an image should find those of its coarser class", groups)


def _by_number(numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Masks of ranges that double: none, 1, 2, 3 to 4, 5 to 8, ..."""
    power = np.ceil(np.log2(np.maximum(numbers, 1))).astype(int)  # of the end of the range
    power[numbers < 1] = -1
    masks = {}
    for one in np.unique(power).tolist():
        low, high = (2 ** (one - 1) + 1, 2**one) if one > 0 else (1, 1)
        name = "none" if one < 0 else f"{low:,}" if low == high else f"{low:,} to {high:,}"
        masks[name] = power == one
    return masks


def _by_category(evaluation: EvaluationData) -> dict[str, np.ndarray]:
    """Masks of the largest categories."""
    details = [evaluation.records[query].details for query in evaluation.neighbours.queries]
    category = [(None if one is None else one.category) or "" for one in details]
    names, counts = np.unique([name for name in category if name], return_counts=True)
    largest = names[np.argsort(-counts, kind="stable")][:_MOST_CATEGORIES]
    of_query = np.array(category)
    return {str(name): of_query == name for name in largest}
