"""Speed and recall of searching a gallery, one query at a time.

    python benchmarks/search.py                        # 100,000 vectors of 512, some two minutes
    python benchmarks/search.py --images 20000 --kinds exact int8
    python benchmarks/search.py --grow 1000000         # added in tens: 2 GB on the disk

The gallery is drawn as embeddings are: classes of ten images around centres that lie near a space
of fewer dimensions. Queries are further images of the classes. `recall` is the share of the ten
nearest by float64 that is found. `faiss flat` is faiss's exact search in memory, the peer.
Milliseconds are of `Index.search` as a caller sees it: checks, candidates, exact cosines, ids.
Additions are of 100 images at once, removals of 100 others, each with its fsyncs.
"""

from __future__ import annotations

import argparse
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from requirements import require

require("faiss")
import faiss

from lookalike.index.folder_store import FolderStore
from lookalike.index.index import Index

K = 10


def draw(images: int, dim: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (N, D) of a gallery, and (Q, D) of queries of the same classes."""
    rng = np.random.default_rng(0)
    classes = max(1, images // 10)
    plane = rng.standard_normal((96, dim)).astype(np.float32) / 96**0.5
    centres = rng.standard_normal((classes, 96)).astype(np.float32) @ plane
    centres += 0.3 * rng.standard_normal((classes, dim)).astype(np.float32)

    def of(labels: np.ndarray) -> np.ndarray:
        found = centres[labels] + 0.7 * rng.standard_normal((len(labels), dim), np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    return of(rng.integers(0, classes, images)), of(rng.integers(0, classes, queries))


def truth_of(gallery: np.ndarray, queries: np.ndarray) -> np.ndarray:
    found = []
    wide = gallery.astype(np.float64)
    for query in queries.astype(np.float64):
        cosines = wide @ query
        some = np.argpartition(-cosines, K)[:K]
        found.append(some[np.argsort(-cosines[some])])
    return np.stack(found)


def timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def asked(ask: Callable[[np.ndarray], list[int]], queries: np.ndarray, truth: np.ndarray) -> str:
    """Latency and recall of queries asked one by one."""
    for query in queries[:10]:
        ask(query)
    seconds, hits = [], 0
    for query, best in zip(queries, truth, strict=True):
        began = time.perf_counter()
        found = ask(query)
        seconds.append(time.perf_counter() - began)
        hits += len(set(found) & set(best.tolist()))
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    return f"{p50:8.2f} {p99:8.2f} {hits / truth.size:8.4f}"


def grow(images: int, dim: int) -> None:
    """An index of `int8` that is added to ten times: what it takes, and what a search does."""
    folder = Path(tempfile.mkdtemp(prefix="lookalike-search-"))
    index = Index.create(folder / "x", dim=dim, kind="int8")
    rng = np.random.default_rng(0)
    slowest = total = 0.0
    for part in range(10):
        vectors = rng.standard_normal((images // 10, dim), np.float32)
        ids = [f"photos/{part}/{row:07}.jpg" for row in range(len(vectors))]
        seconds = timed(lambda vectors=vectors, ids=ids: index.add(vectors=vectors, ids=ids))
        total, slowest = total + seconds, max(slowest, seconds)
    index = Index.open(folder / "x")
    queries = rng.standard_normal((30, dim), np.float32)
    times = [timed(lambda query=query: index.search(query[None], K)) for query in queries]
    stats = index.stats()
    print(
        f"{stats['images']:,} x {dim} int8: added in {total:.1f} s (slowest tenth "
        f"{slowest:.1f} s), "
        f"{stats['segments']} segments, {stats['bytes'] / 1e9:.2f} GB; "
        f"search p50 {np.median(times[3:]) * 1e3:.0f} ms, "
        f"removal of one {timed(lambda: index.remove(['photos/3/0000007.jpg'])):.3f} s, "
        f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB with mapped pages"
    )
    shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument(
        "--kinds", nargs="*", default=[kind for kind in FolderStore.KINDS if kind != "auto"]
    )
    parser.add_argument("--grow", type=int, help="Images of an index that grows, instead.")
    options = parser.parse_args()
    if options.grow:
        grow(options.grow, options.dim)
        return
    gallery, queries = draw(options.images, options.dim, options.queries)
    truth = truth_of(gallery, queries)
    print(
        f"{options.images:,} x {options.dim}, {options.queries} queries one by one, k={K}; "
        f"{torch.get_num_threads()} threads, {platform.processor() or platform.machine()}; "
        f"torch {torch.__version__}, faiss {faiss.__version__}"
    )
    print(f"{'':12}{'p50 ms':>8} {'p99 ms':>8} {'recall':>8}", end="")
    print(f" {'build s':>8} {'add s':>7} {'remove s':>8} {'MB':>7}")

    flat = faiss.IndexFlatIP(options.dim)
    build = timed(lambda: flat.add(gallery))
    text = asked(lambda query: flat.search(query[None], K)[1][0].tolist(), queries, truth)
    print(
        f"{'faiss flat':12}{text} {build:8.1f} {'':7} {'':8} {gallery.nbytes / 1e6:7.0f}",
        flush=True,
    )

    ids = [f"photos/{row:09}.jpg" for row in range(options.images)]
    more = draw(1000, options.dim, 1)[0][:100]
    for kind in options.kinds:
        folder = Path(tempfile.mkdtemp(prefix="lookalike-search-"))
        index = Index.create(folder / "x", dim=options.dim, kind=kind)
        build = timed(lambda index=index: index.add(vectors=gallery, ids=ids))
        size = index.stats()["bytes"]
        index = Index.open(folder / "x")

        def ask(query: np.ndarray, index: Index = index) -> list[int]:
            return [int(id[7:16]) for id in index.search(query[None], K).ids[0]]

        text = asked(ask, queries, truth)
        names = [f"more/{row}.jpg" for row in range(len(more))]
        add = timed(lambda index=index, names=names: index.add(vectors=more, ids=names))
        remove = timed(lambda index=index: index.remove(ids[:: options.images // 100]))
        print(
            f"{kind:12}{text} {build:8.1f} {add:7.3f} {remove:8.3f} {size / 1e6:7.0f}", flush=True
        )
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
