"""Metrics by class frequency (many, medium, few shots): a mean over all queries hides rare classes.

The bounds are those of Liu et al., Large-Scale Long-Tailed Recognition in an Open World, 2019:
many-shot classes have more than 100 images, few-shot classes less than 20.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from lookalike.metrics.bootstrap import Interval
from lookalike.metrics.query_groups import score_groups

BOUNDS = (20, 100)


@dataclass(frozen=True)
class Shots:
    """The metrics of classes with `least` to `most` images (None: no limit)."""

    name: str
    least: int
    most: int | None
    classes: int
    queries: int
    intervals: dict[str, Interval]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            **{k: v for k, v in asdict(self).items() if k != "intervals"},
            **{name: one.value for name, one in self.intervals.items()},
            "intervals": {name: [one.low, one.high] for name, one in self.intervals.items()},
        }


def by_shots(
    values: Mapping[str, Tensor], classes: np.ndarray, counts: np.ndarray, **sampling: Any
) -> tuple[Shots, ...]:
    """Metrics of frequent, medium, rare and unseen classes, without the groups that are empty.

    `values` are metrics to (Q,), `classes` (Q,) int64, and `counts` the images of each class in
    training or in the gallery, (C,) int64; `sampling` is for `mean_intervals`.
    """
    few, many = BOUNDS
    bounds: dict[str, tuple[int, int | None]] = {
        "many": (many + 1, None), "medium": (few, many), "few": (1, few - 1), "unseen": (0, 0),
    }  # fmt: skip
    sizes = counts[classes]
    masks = {
        name: (sizes >= least) & (sizes <= (np.inf if most is None else most))
        for name, (least, most) in bounds.items()
    }
    return tuple(
        Shots(group.name, *bounds[group.name], group.classes, group.queries, group.intervals)
        for group in score_groups(values, classes, masks, **sampling)
    )
