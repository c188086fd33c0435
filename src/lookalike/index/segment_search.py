"""What queries find in the segments of an index, together."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch

from lookalike.errors import DataError
from lookalike.index import approximate, segment_scan
from lookalike.index.segment import Segment

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
    cosines = np.full((len(asked), count), np.nan)
    for begin in range(0, len(asked), _QUERIES):
        part = asked[begin : begin + _QUERIES]
        found = [_nearest(part, some, count, exact) for some in segments] if count else []
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


def _nearest(queries: np.ndarray, some: Segment, k: int, exact: bool) -> list[segment_scan.Found]:
    by_faiss = some.entry.near_file is not None and not exact
    return (approximate if by_faiss else segment_scan).nearest(queries, some, k)


def given_vectors(values: Any) -> np.ndarray | None:
    """Vectors (N, D) that were handed over, of one (D,) too; None if these are images.

    Arrays and tensors of one or two dimensions are vectors, and so are several of one dimension.
    """
    if isinstance(values, (list, tuple)) and values:
        parts = [given_vectors(one) for one in values]
        flat = [one for one in parts if one is not None and len(one) == 1]
        if len(flat) < len(values) or any(np.ndim(one) != 1 for one in values):
            return None
        if len({one.shape for one in flat}) > 1:
            raise DataError("vectors must be of one length")
        return np.concatenate(flat)
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if not isinstance(values, np.ndarray) or values.ndim not in (1, 2):
        return None
    if values.dtype.kind in "OUS":
        return None
    return values[None] if values.ndim == 1 else values


def neighbours_wanted(k: object) -> int:
    """A number of neighbours.

    Raises:
        DataError: it is none.
    """
    if isinstance(k, bool) or not isinstance(k, Integral) or k < 1:
        raise DataError(f"k={k!r}: must be an integer, and at least 1")
    return int(k)


def unit(vectors: np.ndarray, dim: int) -> np.ndarray:
    """(N, D) float32 of unit length; those that are already, to 1e-6, stay as they are."""
    if vectors.ndim != 2 or vectors.shape[1] != dim or vectors.dtype.kind != "f":
        raise DataError(
            f"vectors must be floats of shape (N, {dim}), got {vectors.dtype} of {vectors.shape}"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # they are named below
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        result = np.ascontiguousarray(vectors, np.float32)
    bad = ~(np.isfinite(lengths) & (lengths > 0))
    if bad.any():
        raise DataError(f"vector {int(bad.argmax())} is zero or not finite: it has no direction")
    far = np.abs(lengths - 1) > 1e-6
    if far.any():
        result = result.copy()
        result[far] = vectors[far] / lengths[far, None]
    return result
