"""What queries find in the segments of an index, together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lookalike.errors import DataError
from lookalike.gallery import approximate, scan
from lookalike.gallery.segment import Segment

_QUERIES = 64  # at a time


class Neighbours(NamedTuple):
    """What queries found; Q of them, and for each K = min(k, images) neighbours, best first.

    Attributes:
        ids: of the neighbours, by query.
        cosines: (Q, K) float64; equal ones are in the order in which they were added.
        labels: of the neighbours, by query; None where none is known.
    """

    ids: list[list[str]]
    cosines: np.ndarray
    labels: list[list[str | None]]


def search(segments: Sequence[Segment], asked: np.ndarray, k: int, exact: bool) -> Neighbours:
    """The k nearest live rows of all segments to each query.

    Args:
        segments: in the order in which they were added.
        asked: (Q, D) float32, unit length.
        k: how many, at least 1.
        exact: look at all rows, also where a segment has an index of faiss.
    """
    ids: list[list[str]] = []
    labels: list[list[str | None]] = []
    count = min(k, sum(some.entry.live for some in segments))
    cosines = np.empty((len(asked), count))
    for begin in range(0, len(asked), _QUERIES):
        part = asked[begin : begin + _QUERIES]
        found = [_nearest(part, some, k, exact) for some in segments]
        for at in range(len(part)):
            rows = np.concatenate([np.empty(0, np.int64), *(one[at][0] for one in found)])
            near = np.concatenate([np.empty(0), *(one[at][1] for one in found)])
            owner = np.repeat(np.arange(len(found)), [len(one[at][0]) for one in found])
            order = np.lexsort((rows, owner, -near))[:count]
            cosines[begin + at] = near[order]
            both = [(segments[owner[i]].rows, int(rows[i])) for i in order]
            ids.append([table["id"][row].as_py() for table, row in both])
            labels.append([table["label"][row].as_py() for table, row in both])
    return Neighbours(ids, cosines, labels)


def _nearest(queries: np.ndarray, some: Segment, k: int, exact: bool) -> list[scan.Found]:
    by_faiss = some.entry.near_file is not None and not exact
    return (approximate if by_faiss else scan).nearest(queries, some, k)


def unit(vectors: np.ndarray, dim: int) -> np.ndarray:
    """(N, D) float32 of unit length; those that are already, to 1e-6, stay as they are."""
    if vectors.ndim != 2 or vectors.shape[1] != dim or vectors.dtype.kind != "f":
        raise DataError(
            f"vectors must be floats of shape (N, {dim}), got {vectors.dtype} of {vectors.shape}"
        )
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    bad = ~(np.isfinite(lengths) & (lengths > 0))
    if bad.any():
        raise DataError(f"vector {int(bad.argmax())} is zero or not finite: it has no direction")
    result = np.ascontiguousarray(vectors, np.float32)
    far = np.abs(lengths - 1) > 1e-6
    if far.any():
        result = result.copy()
        result[far] = vectors[far] / lengths[far, None]
    return result
