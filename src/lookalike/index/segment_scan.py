"""Exact nearest rows of a segment, by a scan of all rows.

**First pass.** All cosines, in float32 or from int8 codes, each with a bound on its error: float32
sums of D products of unit vectors err by less than D 2^-24 (Higham, Accuracy and Stability of
Numerical Algorithms, 2002, section 3.1) and what the rounding of the vectors adds; codes leave out
a part of known length of every vector, and of the query, and a product with it is no larger than
that (Cauchy and Schwarz). No row that lies further below the k-th best than twice the bound can be
among the k nearest; the few others are candidates. So int8 reads a quarter of the bytes and finds
the same rows.

**Second pass.** The candidates' cosines, exactly as evaluation has them: unit vectors in steps of
2^-26, whose products float64 sums without error. They depend on the two vectors only; equal ones
are in the order of the rows.

Unlike the searches of `lookalike.metrics` this one has a few queries, not one for each image; it
reads vectors and codes from disk, once; rows may be deleted; and the first pass leaves so few rows
that the others are never converted to float64.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from lookalike.index.segment import Segment, encode

_STEPS = 2.0**26
_NUMBERS = 2**24  # cosines of one block at most
_ROWS = 2**17  # rows of one at most
_EXACT = 4096  # rows of the second pass at a time

RankedRows = tuple[np.ndarray, np.ndarray]
"""Rows (m,) int64 and their cosines (m,) float64, best first."""


def nearest(queries: np.ndarray, segment: Segment, k: int) -> list[RankedRows]:
    """The k nearest live rows, or fewer, to each of the unit vectors (Q, D) float32."""
    if segment.codes is not None and has_exact_int8():
        scores, slack = _int8_scores(queries, segment)
    else:
        scores, slack = _float_scores(queries, segment)
    rows = _candidates(scores, slack, len(queries), segment, k)
    return [rank(query, segment, some, k) for query, some in zip(queries, rows, strict=True)]


def rank(query: np.ndarray, segment: Segment, rows: np.ndarray, k: int) -> RankedRows:
    """The k nearest among `rows` (m,) to one query (D,)."""
    if len(rows) > 4 * k:  # first in float32, as the exact products take longer
        rough = segment.vectors[rows] @ query
        kth = np.partition(rough, len(rough) - k)[len(rough) - k]
        rows = rows[rough >= kth - 2 * _float_slack(len(query))]
    cosines = np.empty(len(rows))
    unit = _steps(query[None])[0]
    for begin in range(0, len(rows), _EXACT):
        part = rows[begin : begin + _EXACT]
        cosines[begin : begin + _EXACT] = _steps(segment.vectors[part]) @ unit
    order = np.lexsort((rows, -cosines))[:k]
    return rows[order], np.clip(cosines[order] / _STEPS**2, -1, 1)


def _steps(vectors: np.ndarray) -> np.ndarray:
    """Unit vectors (n, D) in steps of 2^-26, as float64."""
    x = vectors.astype(np.float64)
    return np.rint(x * (_STEPS / np.linalg.norm(x, axis=1, keepdims=True)))


def _float_slack(dim: int) -> float:
    return dim * 2.0**-24 + 4e-6  # the second: vectors are of unit length up to 1e-6


Scores = Callable[[int, int], Tensor]
"""(begin, end) of rows -> (Q, end - begin) float32."""


def _float_scores(queries: np.ndarray, segment: Segment) -> tuple[Scores, float]:
    asked = torch.from_numpy(queries)

    def scores(begin: int, end: int) -> Tensor:
        return asked @ torch.from_numpy(segment.vectors[begin:end]).T

    return scores, _float_slack(queries.shape[1])


def _int8_scores(queries: np.ndarray, segment: Segment) -> tuple[Scores, float]:
    assert segment.codes is not None
    codes, scales = segment.codes[0], torch.from_numpy(segment.codes[1])
    encoded, their_scales, left = encode(queries)
    asked = torch.from_numpy(encoded)  # (Q, D)
    their = torch.from_numpy(their_scales)[:, None]  # (Q, 1)

    def scores(begin: int, end: int) -> Tensor:
        products = torch._int_mm(asked, torch.from_numpy(codes[begin:end]).T)
        return products.float().mul_(scales[None, begin:end]).mul_(their)

    # q x - q' x' = q (x - x') + (q - q') x', where x' is at most as long as x and the rest.
    slack = segment.entry.slack + float(left.max()) * (1 + segment.entry.slack)
    return scores, slack + _float_slack(queries.shape[1])


def _candidates(
    scores: Scores, slack: float, count: int, segment: Segment, k: int
) -> list[np.ndarray]:
    """The live rows that may be among the k nearest of each query, ascending."""
    total = segment.entry.count
    deleted = None if segment.deleted is None else torch.from_numpy(segment.deleted)
    step = max(1024, min(_ROWS, _NUMBERS // count))
    top = torch.empty(count, 0)
    floor = torch.full((count,), -torch.inf)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for begin in range(0, total, step):
        end = min(begin + step, total)
        block = scores(begin, end)  # (Q, b)
        if deleted is not None:
            block.masked_fill_(deleted[begin:end], -torch.inf)
        top = torch.cat([top, block.topk(min(k, end - begin)).values], 1)
        top = top.topk(min(k, top.shape[1])).values  # (Q, k)
        if top.shape[1] == k:
            floor = (top[:, -1] - 2 * slack).clamp_min_(-2)  # -2: no deleted row, which has -inf
        else:
            floor = torch.full((count,), -2.0)
        query, row = (block >= floor[:, None]).nonzero(as_tuple=True)
        found.append((query, row + begin, block[query, row]))
    query, row, score = (torch.cat(parts) for parts in zip(*found, strict=True))
    kept = score >= floor[query]
    owners, rows = query[kept].numpy(), row[kept].numpy()
    order = np.argsort(owners, kind="stable")
    ends = np.searchsorted(owners[order], np.arange(1, count))
    return np.split(rows[order], ends)


@lru_cache(maxsize=1)
def has_exact_int8() -> bool:
    """True if this machine can multiply int8 matrices, without overflow of intermediate sums.

    Processors without VNNI add pairs of products in 16 bits, which the largest codes overflow.
    """
    extremes = torch.tensor([[127] * 64, [-127] * 64, [127, -127] * 32], dtype=torch.int8)
    try:
        products = torch._int_mm(extremes, extremes.T)
    except RuntimeError:
        return False
    return bool((products.long() == extremes.long() @ extremes.long().T).all())
