"""Scores of groups of queries, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from lookalike.metrics.bootstrap import Interval, mean_intervals


@dataclass(frozen=True)
class QueryGroup:
    """Scores of some of the queries."""

    name: str  # of the group
    queries: int  # number of queries
    classes: int  # number of their classes
    intervals: dict[str, Interval]  # metric to its mean and interval


def score_groups(
    values: Mapping[str, Tensor],
    classes: np.ndarray,
    masks: Mapping[str, np.ndarray],
    **sampling: Any,
) -> list[QueryGroup]:
    """Scores of each group that has a query.

    Args:
        values: metric to (Q,).
        classes: (Q,) int64, class of each query.
        masks: name of a group to (Q,) bool.
        sampling: for `mean_intervals`.
    """
    return [
        QueryGroup(
            name=name,
            queries=int(mask.sum()),
            classes=len(np.unique(classes[mask])),
            intervals=mean_intervals(
                {metric: column.numpy()[mask] for metric, column in values.items()},
                classes[mask],
                **sampling,
            ),
        )
        for name, mask in masks.items()
        if mask.any()
    ]
