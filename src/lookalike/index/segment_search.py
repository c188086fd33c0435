"""Search in all segments of an index, and the checks of its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch

from lookalike import storage
from lookalike.errors import DataError, RunError
from lookalike.index import segment_scan
from lookalike.index.manifest import FIX
from lookalike.index.segment import Segment
from lookalike.index.segment_scan import RankedRows
from lookalike.index.store import SearchHits

_QUERIES = 64  # at a time


def search(
    segments: Sequence[Segment], asked: np.ndarray, k: int, among: Sequence[str] | None = None
) -> SearchHits:
    """The k nearest live rows of all segments to each query.

    Args:
        segments: in the order in which they were added.
        asked: (Q, D) float32, unit length.
        k: at least 1.
        among: labels; only rows with one of them. None for all rows.

    Raises:
        RunError: a segment is damaged.
    """
    ids: list[list[str]] = []
    labels: list[list[str | None]] = []
    chosen = None if among is None else [one.labelled(among) for one in segments]
    count = min(k, sum(one.entry.live for one in segments) if chosen is None else _sum(chosen))
    cosines = np.full((len(asked), count), np.nan)
    for begin in range(0, len(asked), _QUERIES):
        part = asked[begin : begin + _QUERIES]
        found: list[list[RankedRows]] = []
        if count and chosen is None:
            found = [segment_scan.nearest(part, one, count) for one in segments]
        elif count and chosen is not None:
            found = [
                [segment_scan.rank(query, one, rows, count) for query in part]
                for one, rows in zip(segments, chosen, strict=True)
            ]
        for at in range(len(part)):
            rows = np.concatenate([np.empty(0, np.int64), *(ranked[at][0] for ranked in found)])
            near = np.concatenate([np.empty(0), *(ranked[at][1] for ranked in found)])
            owner = np.repeat(np.arange(len(found)), [len(ranked[at][0]) for ranked in found])
            order = np.lexsort((rows, owner, -near))[:count]
            if len(order) < count:  # vectors that are not finite have no cosine
                where = ", ".join(str(one.folder) for one in segments)
                raise RunError(f"{where}: damaged: {len(order)} rows to find of {count}; {FIX}")
            cosines[begin + at] = near[order]
            both = [(segments[owner[i]].rows, int(rows[i])) for i in order]
            ids.append([table["id"][row].as_py() for table, row in both])
            labels.append([table["label"][row].as_py() for table, row in both])
    return SearchHits(ids, cosines, labels)


def _sum(rows: Sequence[np.ndarray]) -> int:
    return sum(map(len, rows))


def vectors_in(values: Any) -> np.ndarray | None:
    """Vectors (N, D) of an argument that may be one vector (D,); None if it holds images.

    Arrays and tensors of one or two dimensions are vectors, and so are several of one dimension.
    """
    if isinstance(values, (list, tuple)) and values:
        parts = [vectors_in(one) for one in values]
        flat = [one for one in parts if one is not None and len(one) == 1]
        if len(flat) < len(values) or any(np.ndim(one) != 1 for one in values):
            return None
        if len({one.shape for one in flat}) > 1:
            raise DataError("all vectors must have the same dimension")
        return np.concatenate(flat)
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if not isinstance(values, np.ndarray) or values.ndim not in (1, 2):
        return None
    if values.dtype.kind in "OUS":
        return None
    return values[None] if values.ndim == 1 else values


def checked_k(k: object) -> int:
    """A number of neighbours.

    Raises:
        DataError: it is none.
    """
    if isinstance(k, bool) or not isinstance(k, Integral) or k < 1:
        raise DataError(f"k={k!r}: must be an integer, and at least 1")
    return int(k)


def normalized(vectors: np.ndarray, dim: int, ids: Sequence[str] = ()) -> np.ndarray:
    """(N, D) float32 of unit length; vectors that are so already, to 1e-6, do not change.

    Raises:
        DataError: they have another shape, or one has no direction; names its image, where they
            have `ids`.
    """
    if vectors.ndim != 2 or vectors.shape[1] != dim or vectors.dtype.kind != "f":
        raise DataError(
            f"vectors must be floats of shape (N, {dim}), got {vectors.dtype} of {vectors.shape}"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # raised below
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        result = np.ascontiguousarray(vectors, np.float32)
    bad = ~(np.isfinite(lengths) & (lengths > 0))
    if bad.any():
        row = int(bad.argmax())
        whose = f"{storage.public(ids[row])}: its vector" if ids else f"vector {row}"
        raise DataError(f"{whose} is zero or not finite: it has no direction")
    far = np.abs(lengths - 1) > 1e-6
    if far.any():
        result = result.copy()
        result[far] = vectors[far] / lengths[far, None]
    return result
