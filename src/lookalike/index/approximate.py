"""Approximate nearest rows of large segments by faiss: most of them, in a fraction of the time.

faiss holds the vectors as 8 bits a number and proposes candidates, whose cosines are then computed
exactly (`segment_scan.rank`), so that they are those of an exact search, and only rows can be
missing. The effort of a search is chosen when a segment is built: twice the least with which faiss
finds `RECALL` of the ten nearest rows of rows of the segment itself. Twice, since queries from
elsewhere, which lie between the rows, are harder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lookalike.index import faiss_library, segment_scan
from lookalike.index.faiss_library import faiss
from lookalike.index.segment import BLOCK, Segment

RECALL = 0.98
_K = 10
_ASKED = 200  # rows with which the effort is chosen
_LEVELS = (8, 16, 32, 64, 128, 256, 512)
_LINKS = 32
_TRAINED = 65536  # rows from which the range of the 8 bits is taken
_PROPOSED = 4  # times k


def build(segment: Segment, file: Path) -> int:
    """Write faiss's graph of a segment; returns the effort to search it with.

    HNSW: a graph of neighbours on several levels (Malkov and Yashunin, 2016).
    """
    library = faiss()
    count, dim = segment.vectors.shape
    eight, inner = library.ScalarQuantizer.QT_8bit, library.METRIC_INNER_PRODUCT
    index = library.IndexHNSWSQ(dim, eight, _LINKS, inner)
    index.hnsw.efConstruction = 80
    rng = np.random.default_rng(0)
    index.train(segment.vectors[np.sort(rng.choice(count, min(count, _TRAINED), replace=False))])
    for begin in range(0, count, BLOCK):
        index.add(np.ascontiguousarray(segment.vectors[begin : begin + BLOCK]))
    effort = _least_effort(index, segment, np.sort(rng.choice(count, _ASKED, replace=False)))
    faiss_library.write(index, file)
    return effort


def nearest(queries: np.ndarray, segment: Segment, k: int) -> list[segment_scan.RankedRows]:
    """About the k nearest live rows to each query; exact where too few are proposed."""
    entry = segment.entry
    # No more than there are rows: faiss takes memory for each candidate.
    count = min(_PROPOSED * k, entry.count)
    proposed = _proposed(segment.faiss_index, queries, count, entry.effort, segment.deleted)
    ranked = []
    for query, rows in zip(queries, proposed, strict=True):
        rows = np.unique(rows[rows >= 0])
        if len(rows) < min(k, entry.live):
            ranked += segment_scan.nearest(query[None], segment, k)
        else:
            ranked.append(segment_scan.rank(query, segment, rows, k))
    return ranked


def _proposed(
    index: Any, queries: np.ndarray, count: int, effort: int, deleted: np.ndarray | None
) -> np.ndarray:
    """Candidate rows (Q, count); -1 where there are no more."""
    library = faiss()
    options: dict[str, Any] = {}
    if deleted is not None:
        live = np.packbits(~deleted, bitorder="little")
        options["sel"] = library.IDSelectorBitmap(live)
    parameters = library.SearchParametersHNSW(efSearch=max(effort, count), **options)
    # faiss.contrib.torch_utils, which others import, puts a search without `params` in its place.
    search = getattr(index, "search_numpy", index.search)
    _, rows = search(queries, count, params=parameters)
    return np.asarray(rows)


def _least_effort(index: Any, segment: Segment, asked: np.ndarray) -> int:
    """Twice the least effort that finds `RECALL` of the nearest rows of `asked`, without itself."""
    queries = segment.vectors[asked]
    truth = [
        set(rows.tolist()) - {own}
        for own, (rows, _) in zip(
            asked, segment_scan.nearest(queries, segment, _K + 1), strict=True
        )
    ]
    for effort in _LEVELS:
        rows = _proposed(index, queries, _PROPOSED * _K, effort, None)
        hits = sum(len(true & set(some)) for true, some in zip(truth, rows.tolist(), strict=True))
        if hits >= RECALL * sum(map(len, truth)):
            return 2 * effort
    return 2 * _LEVELS[-1]
