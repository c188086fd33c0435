"""Whole classes of a data set, drawn by their names: held out to measure on, or sampled."""

from __future__ import annotations

import hashlib

import numpy as np

from lookalike.data.catalog import Catalog
from lookalike.data.classes import Classes
from lookalike.data.record_table import RecordTable
from lookalike.errors import DataError


def hold_out(catalog: Catalog, fraction: float, seed: int) -> tuple[Catalog, Catalog]:
    """The training part, and a fraction of the classes held out to measure retrieval on.

    A class is drawn by a hash of its name and the seed: the draw is the same on every machine,
    and more images of the same classes do not change it. At least two held-out classes have two
    images or more. In both parts the classes keep their order and are numbered anew; classes
    without images stay with the training part. An image of several classes goes with its first
    one, and is no image of those in the other part.

    Raises:
        DataError: there are too few classes for both parts.
    """
    counts = np.bincount(catalog.class_ids, minlength=len(catalog.classes))
    present = np.flatnonzero(counts)
    pairs = np.flatnonzero(counts >= 2)
    if len(present) < 4 or len(pairs) < 2:
        raise DataError(
            f"data.val_fraction={fraction} cannot hold out classes: it takes 4 classes, 2 of them"
            f" with 2 images or more, and there are {len(present):,}, {len(pairs):,} of them with"
            " 2 images or more; give a validation list (data.val) instead"
        )
    names = catalog.classes.names
    drawn = sorted(present.tolist(), key=lambda row: _draw(names[row], seed))
    # Two classes that can be measured come first; where they are among the first drawn anyway,
    # this changes nothing.
    first = [row for row in drawn if counts[row] >= 2][:2]
    number = min(max(2, round(fraction * len(present))), len(present) - 2)
    held = np.zeros(len(names), dtype=bool)
    held[(first + [row for row in drawn if row not in first])[:number]] = True
    return _of_classes(catalog, ~held), _of_classes(catalog, held)


def sample_classes(
    catalog: Catalog, most: int, seed: int = 0, *, findable: np.ndarray | None = None
) -> Catalog:
    """Whole classes with at most `most` images together, and two classes at least.

    They are drawn as in `hold_out`, last those that cannot be measured: without an image that is
    `findable`, (N,) bool, a query that has something to find; by default with one image.
    """
    if len(catalog) <= most:
        return catalog
    counts = np.bincount(catalog.class_ids, minlength=len(catalog.classes))
    measured = counts >= 2
    if findable is not None:
        ids = catalog.class_ids[findable]
        measured = np.bincount(ids, minlength=len(counts)) > 0
    names = catalog.classes.names
    drawn = sorted(np.flatnonzero(counts).tolist(), key=lambda row: _draw(names[row], seed))
    kept = np.zeros(len(names), dtype=bool)
    total = 0
    for row in sorted(drawn, key=lambda row: not measured[row]):
        if total + counts[row] > most and kept.sum() >= 2:
            break
        kept[row] = True
        total += counts[row]
    return _of_classes(catalog, kept)


def _draw(name: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=16).digest()


def _of_classes(catalog: Catalog, kept: np.ndarray) -> Catalog:
    """The records whose first class is `kept`, a (C,) mask, with the classes numbered anew.

    Further classes that are not kept are left out.
    """
    rows = np.cumsum(kept) - 1  # old class -> new class, where kept
    mine = np.flatnonzero(kept[catalog.class_ids])
    names = tuple(catalog.classes.names[row] for row in np.flatnonzero(kept))
    records = RecordTable.of(catalog.records).take(mine)
    weights = None if catalog.weights is None else catalog.weights[mine]
    ids = rows[catalog.class_ids[mine]].astype(np.int64)
    further = catalog.further_ids
    if further is not None:
        further = further[mine]
        stay = (further >= 0) & kept[further]
        order = np.argsort(~stay, axis=1, kind="stable")  # those that stay come first
        further = np.take_along_axis(np.where(stay, rows[further], -1), order, 1)
        further = further[:, : int(stay.sum(1).max())] if stay.any() else None
    levels = tuple(level.of_kept(kept) for level in catalog.levels)
    return Catalog(records, ids, Classes(names), weights, further, levels)
