"""The interface of an index's store: rows are upserted, deleted, searched and read.

A row is an image: its id, its vector of unit length, its label, its place and its version. Stores
differ in where the rows are: a folder of this machine (`FolderStore`), a collection of Qdrant
(`QdrantStore`) or a table of PostgreSQL (`PgvectorStore`).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from lookalike.errors import RunError

SCHEMA = pa.schema(
    [
        pa.field("id", pa.large_string()),
        pa.field("label", pa.string()),
        pa.field("image", pa.string()),  # JSON: where it is, if the id alone is not enough
        pa.field("version", pa.int64()),  # of the file; 0 where it is not known
    ]
)


@dataclass(frozen=True)
class StoredRows:
    """Vectors (n, D) float32, and n rows of `SCHEMA`."""

    vectors: np.ndarray
    table: pa.Table


class SearchHits(NamedTuple):
    """The K = min(k, images) nearest images to each of Q queries, best first.

    Attributes:
        ids: by query.
        cosines: (Q, K) float64; of equal ones in a folder, the image added first comes first.
        labels: by query; None where a label is unknown.
    """

    ids: list[list[str]]
    cosines: np.ndarray
    labels: list[list[str | None]]


class ModelCheck:
    """A check that the index at an address is still one of the model that it was opened with.

    A database has no cheap way to tell: searches ask it once a second.
    """

    SECONDS = 1.0

    def __init__(self, place: str, model: str, dim: int) -> None:
        self._place, self._built = place, (model, dim)
        self._checked = time.monotonic()

    @property
    def is_due(self) -> bool:
        """True where the last check is a second ago."""
        return time.monotonic() - self._checked >= self.SECONDS

    def check(self, model: str, dim: int) -> None:
        """Raise a RunError if the index there is of another model, or of other dimensions."""
        if (model, dim) != self._built:
            raise RunError(
                f"{self._place}: was replaced by an index of another model, and vectors of "
                "different models cannot be compared; open it again with that model (a server: "
                "start it again), or use another index"
            )
        self._checked = time.monotonic()


class Store(ABC):
    """Rows with distinct ids, and the model whose vectors they are.

    Threads may share a store, and processes a place, unless a store says otherwise.

    Attributes:
        address: its folder or address, by which another process opens it.
        place: the same without user and parameters, for messages.
        dim: numbers D of a vector.
        model: the fingerprint of the embedder; "" where vectors come from elsewhere.
        kind: of search, one of the store's `KINDS`: auto, which is the last one, or another.
    """

    KINDS: tuple[str, ...] = ("auto", "exact", "hnsw")

    address: str
    place: str
    dim: int
    model: str
    kind: str

    @abstractmethod
    def count(self) -> int:
        """The number of rows."""

    @abstractmethod
    def upsert(self, rows: StoredRows) -> int:
        """Add rows with distinct ids, and replace rows that have these ids; returns their number.

        They are durable when this returns.
        """

    @abstractmethod
    def delete(self, ids: Sequence[str]) -> int:
        """Delete the rows with these distinct ids; returns how many there were."""

    @abstractmethod
    def search(
        self, queries: np.ndarray, k: int, *, exact: bool, among: Sequence[str] | None
    ) -> SearchHits:
        """The k nearest rows to each query by cosine.

        Args:
            queries: (Q, D) float32 of unit length.
            k: at least 1.
            among: labels; only rows with one of them, and all of these. None for all rows.
        """

    @abstractmethod
    def read(
        self, ids: Sequence[str] | None = None, *, vectors: bool = False
    ) -> Iterator[StoredRows]:
        """The rows with these distinct ids, or all rows, some thousands at a time.

        Vectors are (n, 0) unless they are asked for.
        """

    @abstractmethod
    def optimize(self, *, fully: bool = False) -> None:
        """Prepare for fast searches after changes, where it is worth it; or as far as it goes."""

    @abstractmethod
    def stats(self) -> dict[str, Any]:
        """Counts and sizes, as plain values."""

    def check(self) -> None:  # noqa: B027 - most stores check their bytes themselves
        """Compare stored bytes with their checksums, where there are any.

        Raises:
            RunError: some are damaged.
        """

    def close(self) -> None:  # noqa: B027 - a folder holds nothing open
        """Close connections."""


def table_of(
    ids: Sequence[str],
    labels: Sequence[str | None],
    images: Sequence[str | None],
    versions: Sequence[int],
) -> pa.Table:
    """Rows of `SCHEMA`."""
    return pa.table([ids, labels, images, versions], schema=SCHEMA)


def hits_of(found: Sequence[Sequence[tuple[str, str | None, float]]]) -> SearchHits:
    """The hits of queries, each a list of (id, label, cosine), best first.

    All are as long as the shortest: another process may delete rows between two queries.
    """
    count = min(map(len, found), default=0)
    cosines = np.array([[one[2] for one in hits[:count]] for hits in found], np.float64)
    return SearchHits(
        [[one[0] for one in hits[:count]] for hits in found],
        np.clip(cosines.reshape(len(found), count), -1, 1),
        [[one[1] for one in hits[:count]] for hits in found],
    )
