"""Stores of an index beside each other: loaded, killed in mid-load, searched, changed.

    python benchmarks/galleries.py                      # 100,000 vectors of 512
    python benchmarks/galleries.py --images 20000 --stores int8 pgvector

Each store is loaded from a `.npy` file as `lookalike search --gallery` does it, by a process that
is killed with SIGKILL once a third is there, and started again. Then all ids and vectors are read
and compared: `lost` counts those that are missing or differ. Queries come one by one, new images of
the same classes (`search.py`); `recall` is the share of the ten nearest by float64.

PostgreSQL with pgvector is that of the wheel of the tests. `qdrant` is Qdrant's engine
(`qdrant-edge-py`) behind the tests' server in Python, which takes most of the time of a load: it
shows that the store works, not how fast Qdrant's own server is. `faiss + Parquet` is what one would
write without us: vectors and ids in a Parquet file, HNSW over float32 beside it, both written anew
for each change; a load that is killed begins again.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from requirements import require
from search import K, asked, draw, timed, truth_of

for package in ("faiss", "psycopg", "qdrant_client", "qdrant_edge"):
    require(package)
sys.path.insert(0, str(Path(__file__).parents[1] / "tests/index"))

from lookalike.data.loading.image_source import Source
from lookalike.errors import LookalikeError, UnavailableError
from lookalike.index import sync
from lookalike.index.index import Index

STORES = ("int8", "faiss", "pgvector", "qdrant")


def load(address: str, file: str, dim: int, kind: str) -> None:
    """Add the vectors of a file to an index; goes on where a killed load ended."""
    logging.getLogger("lookalike").setLevel(logging.ERROR)  # a .npy file does not name its model
    with Index.open_or_create(address, dim=dim, kind=kind) as index:
        sync.synchronize(
            index, sync.GalleryList.of([file]), remove_missing=False, source=Source(threads=1)
        )


def loaded_with_a_kill(address: str, file: Path, dim: int, kind: str, images: int) -> str:
    """Load in a process that is killed once, and report seconds and loss."""
    words = [sys.executable, __file__, "--load", address, str(file), str(dim), kind]
    began = time.perf_counter()
    child = subprocess.Popen(words)
    there = 0
    while child.poll() is None and there < images // 3:
        time.sleep(0.05)
        try:
            with Index.open(address) as index:
                there = len(index)
        except LookalikeError:
            continue  # not yet made
    child.send_signal(signal.SIGKILL)
    child.wait()
    with Index.open(address) as index:
        there = len(index)
    subprocess.run(words, check=True)
    seconds = time.perf_counter() - began
    return f"{seconds:8.1f} {there:8,}"


def row_of(id: str) -> int:
    return int(id.rpartition("/")[2][:9])


def lost(index: Index, vectors: np.ndarray) -> int:
    """Vectors that are missing or differ."""
    right = 0
    for rows in index.store.read(vectors=True):
        numbers = list(map(row_of, rows.table["id"].to_pylist()))
        right += int((np.abs(rows.vectors - vectors[numbers]).max(1) < 1e-6).sum())
    return len(vectors) - right


@contextmanager
def store_of(name: str, folder: Path) -> Iterator[tuple[str, str, Callable[[], None]]]:
    """Address, kind, and a function that waits until the store has built its index."""
    if name == "pgvector":
        from postgres_server import PostgresServer

        with PostgresServer(fsync=True) as server:
            yield server.address("gallery"), "auto", lambda: None
    elif name == "qdrant":
        file = Path(sys.path[0]) / "qdrant_server.py"
        (folder / "qdrant").mkdir()
        server = subprocess.Popen(
            [sys.executable, file, folder / "qdrant"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            address = f"qdrant://127.0.0.1:{int(server.stdout.readline())}/gallery"

            def build() -> None:
                server.send_signal(signal.SIGUSR1)
                while True:
                    try:
                        with Index.open(address) as index:
                            if index.stats()["in_hnsw"]:
                                return
                    except UnavailableError:  # the server is building
                        continue
                    time.sleep(0.5)

            yield address, "auto", build
        finally:
            server.terminate()
            server.wait()
    else:
        yield str(folder / name), name, lambda: None


def measure(name: str, gallery: np.ndarray, file: Path, queries: np.ndarray, truth: np.ndarray,
            more: np.ndarray, folder: Path) -> str:  # fmt: skip
    images, dim = gallery.shape
    with store_of(name, folder) as (address, kind, build):
        text = loaded_with_a_kill(address, file, dim, kind, images)
        waited = timed(build)
        with Index.open(address) as index:
            text += f" {waited:8.1f} {lost(index, gallery):6}"
            text += " " + asked(
                lambda query: list(map(row_of, index.search(query, K).ids[0])), queries, truth
            )
            names = [f"more/{row}.jpg" for row in range(len(more))]
            text += f" {timed(lambda: index.add(vectors=more, ids=names)):7.3f}"
            removed = index.ids()[:: images // 100][:100]
            text += f" {timed(lambda: index.remove(removed)):8.3f}"
            size = index.stats().get("bytes")
        if size is None:
            size = sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())
    return f"{text} {size / 1e6:7.0f}"


def by_faiss(gallery: np.ndarray, queries: np.ndarray, truth: np.ndarray, more: np.ndarray,
             folder: Path) -> str:  # fmt: skip
    """The same without us."""
    import faiss

    table, graph = folder / "gallery.parquet", folder / "gallery.faiss"

    def write(vectors: np.ndarray, index: faiss.Index) -> None:
        flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        ids = pa.array([f"photos/{row:09}.jpg" for row in range(len(vectors))])
        pq.write_table(pa.table({"id": ids, "vector": flat}), table, compression="NONE")
        faiss.write_index(index, str(graph))

    index = faiss.IndexHNSWFlat(gallery.shape[1], 32, faiss.METRIC_INNER_PRODUCT)

    def build() -> None:
        index.add(gallery)
        write(gallery, index)

    text = f"{timed(build):8.1f} {0:8} {0:8.1f} {'':6} "
    index.hnsw.efSearch = 128
    text += asked(lambda query: index.search(query[None], K)[1][0].tolist(), queries, truth)

    def add() -> None:
        index.add(more)
        write(np.concatenate([gallery, more]), index)

    text += f" {timed(add):7.3f} {'':8}"  # HNSW of faiss removes nothing
    return f"{text} {(table.stat().st_size + graph.stat().st_size) / 1e6:7.0f}"


def main() -> None:
    if sys.argv[1:2] == ["--load"]:
        address, file, dim, kind = sys.argv[2:]
        load(address, file, int(dim), kind)
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--stores", nargs="*", choices=STORES, default=STORES)
    options = parser.parse_args()
    gallery, queries = draw(options.images, options.dim, options.queries)
    more = draw(1000, options.dim, 1)[0][:100]
    truth = truth_of(gallery, queries)
    print(f"{options.images:,} x {options.dim}, {options.queries} queries one by one, k={K}; "
          f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}")  # fmt: skip
    print(f"{'':10}{'load s':>8} {'at kill':>8} {'wait s':>8} {'lost':>6} {'p50 ms':>8} "
          f"{'p99 ms':>8} {'recall':>8} {'add s':>7} {'remove s':>8} {'MB':>7}")  # fmt: skip
    folder = Path(tempfile.mkdtemp(prefix="lookalike-galleries-"))
    file = folder / "vectors.npy"
    np.save(file, gallery)
    lines = "".join(f"photos/{row:09}.jpg\n" for row in range(options.images))
    (folder / "vectors.ids.txt").write_text(lines)
    try:
        for name in options.stores:
            own = folder / f"of-{name}"
            own.mkdir()
            if name == "faiss":
                text = by_faiss(gallery, queries, truth, more, own)
            else:
                text = measure(name, gallery, file, queries, truth, more, own)
            print(f"{name:10}{text}", flush=True)
            shutil.rmtree(own)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
