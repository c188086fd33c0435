"""Recall of an index's search against an exact search of all its vectors, and its latency.

The exact search reads every vector once, a block at a time, and multiplies in float64; it shares
nothing with the searches of the stores. A found image whose cosine is that of the k-th nearest, to
1e-6, counts as found: of equal ones, a search may return any.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from lookalike.errors import DataError
from lookalike.index.index import Index

_TIE = 1e-6
_WARM = 3  # searches that are not timed


@dataclass(frozen=True)
class RecallCheck:
    """Recall and latency of an index.

    Attributes:
        queries: their number, one search for each.
        own: True if they are images of the index, each of which is then not counted as found.
        k: neighbours of each.
        recall: share of the k nearest that was found.
        worst: the least share of one query.
        cosine_error: the largest difference between a cosine of the search and the exact one.
        p50_ms: median of the time of a search, in milliseconds.
        p99_ms: the time that 99 % of the searches do not exceed.
    """

    queries: int
    own: bool
    k: int
    recall: float
    worst: float
    cosine_error: float
    p50_ms: float
    p99_ms: float


def check_recall(
    index: Index, count: int, k: int = 10, queries: np.ndarray | None = None
) -> RecallCheck:
    """Search for the k nearest images to some queries, one by one, and exactly.

    Args:
        index: with images.
        count: of images of the index that are drawn as queries; the same ones each time.
        k: neighbours, beside the query itself.
        queries: vectors (Q, D) of images that are not in the index, instead.

    Raises:
        DataError: there are no two images.
    """
    if len(index) < 2:
        raise DataError(f"{index.place}: has no two images, so that there is nothing to check")
    own: list[str | None] = []
    if queries is None:
        names = sorted(index.ids())
        drawn = np.random.default_rng(0).choice(len(names), min(count, len(names)), replace=False)
        own = [names[row] for row in drawn]
        queries = index.vectors([names[row] for row in drawn])
    own = own or [None] * len(queries)
    asked = k + (own[0] is not None)
    for query in queries[:_WARM]:
        index.search(query, asked)
    seconds, found = [], []
    for query, name in zip(queries, own, strict=True):
        began = time.perf_counter()
        hits = index.search(query, asked)
        seconds.append(time.perf_counter() - began)
        pairs = zip(hits.ids[0], hits.cosines[0].tolist(), strict=True)
        found.append([(id, cosine) for id, cosine in pairs if id != name][:k])
    nearest = _exact(index, queries, own, k)
    shares, errors = [], [0.0]
    for hits_of_query, exact in zip(found, nearest, strict=True):
        kth = min(exact.values())
        right = [(id, c) for id, c in hits_of_query if id in exact or c >= kth - _TIE]
        errors += [abs(cosine - exact[id]) for id, cosine in right if id in exact]
        shares.append(min(len(right), len(exact)) / len(exact))
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    return RecallCheck(
        len(queries), own[0] is not None, k, float(np.mean(shares)), min(shares), max(errors),
        float(p50), float(p99),
    )  # fmt: skip


def _exact(
    index: Index, queries: np.ndarray, own: list[str | None], k: int
) -> list[dict[str, float]]:
    """The cosines of the k nearest images to each query, by id."""
    wide = queries.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    best: list[list[tuple[float, str]]] = [[] for _ in queries]
    for rows in index.store.read(vectors=True):
        ids = rows.table["id"].to_pylist()
        vectors = rows.vectors.astype(np.float64)
        cosines = wide @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
        some = min(k + 1, len(ids))
        top = np.argpartition(-cosines, some - 1, axis=1)[:, :some]
        for at, (row, name) in enumerate(zip(top, own, strict=True)):
            new = [(float(cosines[at, i]), ids[i]) for i in row if ids[i] != name]
            best[at] = sorted(best[at] + new, reverse=True)[:k]
    return [{id: cosine for cosine, id in pairs} for pairs in best]
