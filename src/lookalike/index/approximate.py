"""Large segments through faiss: most of the nearest rows, in a fraction of the time.

faiss holds the vectors as 8 bits a number, and proposes; the cosines of what it proposes are then
computed exactly (`scan.best`), so that they are those of an exact search, and only rows can be
missing. How hard faiss looks is chosen when a segment is built: twice the least effort with which
it finds `RECALL` of the ten nearest rows of rows of the segment itself. Twice, since queries from
elsewhere, which lie between the rows, are harder.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from lookalike.errors import MissingExtraError, RunError
from lookalike.index import segment_scan
from lookalike.index.block_checksums import WAY_OUT
from lookalike.index.segment import BLOCK, Segment

KINDS = ("ivf", "hnsw")
RECALL = 0.98
_K = 10
_ASKED = 200  # rows that the effort is chosen with
_EFFORTS = (8, 16, 32, 64, 128, 256, 512)
_LINKS = 32
_PROPOSED = 4  # times k


def faiss() -> Any:
    """The library.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise MissingExtraError("faiss-cpu", "search") from None
    return faiss


def build(kind: str, segment: Segment, file: Path) -> int:
    """Write faiss's structure of a segment; returns the effort to search it with.

    Args:
        kind: "ivf": lists around centroids; "hnsw": a graph (Malkov and Yashunin, 2016), which
            takes longer to build, and less to search.
        segment: of at least some thousand rows.
        file: where to.
    """
    library = faiss()
    count, dim = segment.vectors.shape
    inner = library.METRIC_INNER_PRODUCT
    eight = library.ScalarQuantizer.QT_8bit
    dice = np.random.default_rng(0)
    if kind == "ivf":
        lists = int(min(4 * math.sqrt(count), count / 39))
        index = library.IndexIVFScalarQuantizer(
            library.IndexFlatIP(dim), dim, lists, eight, inner, False
        )
        index.cp.niter = 10
        sample = min(count, 64 * lists)
    else:
        index = library.IndexHNSWSQ(dim, eight, _LINKS, inner)
        index.hnsw.efConstruction = 80
        sample = min(count, 65536)
    rows = np.sort(dice.choice(count, sample, replace=False))
    index.train(segment.vectors[rows])
    for begin in range(0, count, BLOCK):
        index.add(np.ascontiguousarray(segment.vectors[begin : begin + BLOCK]))
    effort = _effort(index, segment, np.sort(dice.choice(count, _ASKED, replace=False)))
    try:
        library.write_index(index, str(file))
    except RuntimeError as error:  # of C++, with the reason in many words
        raise OSError(str(error).strip().splitlines()[-1][-120:]) from None
    return effort


def read(file: Path) -> Any:
    """The structure that `build` wrote.

    Raises:
        MissingExtraError: faiss is not installed.
        FileNotFoundError: a writer has replaced it.
        RunError: it is damaged.
    """
    library = faiss()
    if not file.exists():
        raise FileNotFoundError(file)
    try:
        return library.read_index(str(file))
    except RuntimeError:
        raise RunError(f"{file}: damaged; {WAY_OUT}") from None


def nearest(queries: np.ndarray, segment: Segment, k: int) -> list[segment_scan.Found]:
    """About the k nearest live rows to each query; exact where too few are proposed."""
    entry = segment.entry
    wanted = min(k, entry.live)
    # More than there are is refused by none, and asked of nobody: faiss takes memory for each.
    count = min(_PROPOSED * k, entry.count)
    rows = _proposed(segment.near, queries, count, entry.effort, segment.dead)
    found = []
    for query, some in zip(queries, rows, strict=True):
        some = np.unique(some[some >= 0])
        if len(some) < wanted:
            found += segment_scan.nearest(query[None], segment, k)
        else:
            found.append(segment_scan.best(query, segment, some, k))
    return found


def _proposed(
    index: Any, queries: np.ndarray, count: int, effort: int, dead: np.ndarray | None
) -> np.ndarray:
    """Rows (Q, count), -1 where there are no more."""
    library = faiss()
    options: dict[str, Any] = {}
    if dead is not None:
        live = np.packbits(~dead, bitorder="little")
        options["sel"] = library.IDSelectorBitmap(live)
    if isinstance(index, library.IndexIVF):
        parameters = library.SearchParametersIVF(nprobe=effort, **options)
    else:
        parameters = library.SearchParametersHNSW(efSearch=max(effort, count), **options)
    # faiss.contrib.torch_utils, which others import, puts a search without `params` in its place.
    search = getattr(index, "search_numpy", index.search)
    _, rows = search(queries, count, params=parameters)
    return np.asarray(rows)


def _effort(index: Any, segment: Segment, asked: np.ndarray) -> int:
    """The least effort that finds enough of the nearest of the rows `asked`, beside themselves."""
    queries = segment.vectors[asked]
    truth = [
        set(rows.tolist()) - {own}
        for own, (rows, _) in zip(
            asked, segment_scan.nearest(queries, segment, _K + 1), strict=True
        )
    ]
    for effort in _EFFORTS:
        rows = _proposed(index, queries, _PROPOSED * _K, effort, None)
        hits = sum(len(true & set(some)) for true, some in zip(truth, rows.tolist(), strict=True))
        if hits >= RECALL * sum(map(len, truth)):
            return 2 * effort
    return 2 * _EFFORTS[-1]
