"""Scores of parts of the queries: by the size of their class, and how much training saw of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lookalike.metrics.bootstrap import Interval, mean_intervals
from lookalike.reporting.evaluation_data import Evidence

METRICS = ("recall_at_1", "map_at_r")

_MOST_CATEGORIES = 12


@dataclass(frozen=True)
class Slice:
    """A part of the queries.

    Attributes:
        name: which.
        queries: how many.
        classes: of how many classes.
        values: metric -> mean, and how sure it is.
    """

    name: str
    queries: int
    classes: int
    values: dict[str, Interval]


@dataclass(frozen=True)
class Slices:
    """The queries in parts.

    Attributes:
        title: what divides them.
        note: what it tells.
        parts: in order.
    """

    title: str
    note: str
    parts: list[Slice]


def slices(evidence: Evidence) -> list[Slices]:
    """All divisions that divide: those with two parts or more."""
    queries = evidence.found.queries
    labels = evidence.asked
    found = [
        Slices(
            "By the size of the class",
            "images of the query's class that it may find",
            _by_number(evidence, evidence.per_query.relevant.numpy()),
        )
    ]
    if evidence.trained is not None and evidence.trained.any():
        found.append(
            Slices(
                "By what training saw of the class",
                "training images of the query's class",
                _by_number(evidence, evidence.trained[labels]),
            )
        )
    found.append(
        Slices("By category", "as the list states it", _by_category(evidence, queries.tolist()))
    )
    return [one for one in found if len(one.parts) > 1]


def _by_number(evidence: Evidence, numbers: np.ndarray) -> list[Slice]:
    """In spans that double: none, 1, 2, 3 to 4, 5 to 8, ..."""
    power = np.ceil(np.log2(np.maximum(numbers, 1))).astype(int)  # of the end of the span
    power[numbers < 1] = -1
    parts = []
    for one in np.unique(power).tolist():
        low, high = (2 ** (one - 1) + 1, 2**one) if one > 0 else (1, 1)
        name = "none" if one < 0 else f"{low:,}" if low == high else f"{low:,} to {high:,}"
        parts.append(_slice(evidence, name, power == one))
    return parts


def _by_category(evidence: Evidence, queries: Sequence[int]) -> list[Slice]:
    details = [evidence.records[query].details for query in queries]
    category = [None if one is None else one.category for one in details]
    names, counts = np.unique([name for name in category if name is not None], return_counts=True)
    largest = names[np.argsort(-counts, kind="stable")][:_MOST_CATEGORIES]
    told = np.array([name or "" for name in category])
    return [_slice(evidence, str(name), told == name) for name in largest]


def _slice(evidence: Evidence, name: str, mask: np.ndarray) -> Slice:
    labels = evidence.asked[mask]
    return Slice(
        name=name,
        queries=int(mask.sum()),
        classes=len(np.unique(labels)),
        values=mean_intervals(
            {key: evidence.per_query.values[key].numpy()[mask] for key in METRICS}, labels
        ),
    )
