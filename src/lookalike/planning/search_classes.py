"""Classes of the training list that a search of settings holds out: some choose, others confirm."""

from __future__ import annotations

import numpy as np

from lookalike.data.catalog import Catalog
from lookalike.errors import DataError
from lookalike.metrics.bootstrap import LEAST

_FEWEST_HELD_OUT, _MOST_HELD_OUT = 12, 400  # classes


def held_out_fraction(catalog: Catalog) -> float:
    """Part of the classes to hold out."""
    counts = np.bincount(catalog.class_ids, minlength=len(catalog.classes))
    present, several = int((counts > 0).sum()), int((counts > 1).sum())
    if several < 2 * _FEWEST_HELD_OUT:
        raise too_few(catalog)
    held = min(max(round(present / 5), _FEWEST_HELD_OUT), _MOST_HELD_OUT)
    # Classes of one image cannot be measured.
    return min(max(held / present, 2 * LEAST / several), 0.5)


def too_few(catalog: Catalog) -> DataError:
    """Error of a list of which not enough classes can be held out."""
    counts = np.bincount(catalog.class_ids)
    return DataError(
        f"{catalog.records[0].source}: too few classes to hold some out for a search: "
        f"{int((counts > 1).sum()):,} have two images or more; it takes {2 * _FEWEST_HELD_OUT} "
        "or more of them"
    )


def choosing_and_confirming(held_out: Catalog) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the held-out classes, (C,): those that choose, and those that confirm."""
    counts = np.bincount(held_out.class_ids, minlength=len(held_out.classes))
    confirms = np.zeros(len(counts), dtype=bool)
    confirms[np.flatnonzero(counts > 1)[1::2]] = True
    return ~confirms, confirms


def measurable(held_out: Catalog, part: np.ndarray) -> int:
    """Number of the classes of a part, a mask (C,), that have two images or more."""
    counts = np.bincount(held_out.class_ids, minlength=len(held_out.classes))
    return int((counts[part] > 1).sum())
