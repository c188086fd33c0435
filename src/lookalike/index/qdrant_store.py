"""An index in a collection of Qdrant.

A point's id is a UUID made of the image's id, which is in its payload beside label, image and
version. The collection's metadata name the model and the kind of search. Qdrant speaks gRPC here;
its API key is read from QDRANT_API_KEY.

The folders that Qdrant's client keeps without a server are not used: they are pickles.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException

from lookalike import storage
from lookalike.errors import (
    CredentialsError,
    LookalikeError,
    RunError,
    StorageError,
    UnavailableError,
    one_line,
)
from lookalike.index.database_address import parse_qdrant
from lookalike.index.store import (
    ModelCheck,
    SearchHits,
    Store,
    StoredRows,
    hits_of,
    table_of,
)
from lookalike.log import logger

_FORMAT = "lookalike gallery 1"
_ROWS = 1024  # of a request
_NUMBERS = 2**19  # of the vectors of a request: 2 MiB
_QUERIES = 64  # of a request
_SECONDS = 60  # for an answer
_CANDIDATES = 128  # that a search of HNSW keeps at least
_NAMESPACE = uuid.UUID("b7a7f1de-0a0c-5d0e-8f4a-6c1d2f9b3e55")
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_RECONNECT_MS = 5000  # gRPC waits up to two minutes by itself


class QdrantStore(Store):
    """A collection of Qdrant 1.16 or newer.

    A killed upsert leaves whole rows. Qdrant builds its HNSW by itself, and searches what is not
    yet in it exactly.

    Raises:
        RunError: there is no such collection, or it is not one of ours.
        StorageError: the server does not answer, or refuses.
    """

    def __init__(self, address: str, client: QdrantClient | None = None) -> None:
        """Open the collection of an address; with a client, `address` is the collection's name."""
        self.address = address
        self._client, self._name, self.place = _opened(address, client)
        with _reported(self.place):
            if not self._client.collection_exists(self._name):
                raise RunError(
                    f"{self.place}: no index here (the collection is missing); lookalike search "
                    "with --index and --gallery makes one"
                )
            info = self._client.get_collection(self._name)
        self.dim, self.model, self.kind = _checked(info, self.place)
        self._model_check = ModelCheck(self.place, self.model, self.dim)

    @classmethod
    def exists(cls, address: str) -> bool:
        """True if there is a collection of this name, whosever it is."""
        client, name, place = _opened(address, None)
        try:
            with _reported(place):
                return client.collection_exists(name)
        finally:
            client.close()

    @classmethod
    def create(
        cls, address: str, client: QdrantClient | None = None, *, model: str, dim: int, kind: str
    ) -> QdrantStore:
        """A new collection without rows.

        Raises:
            RunError: there is a collection of this name.
            StorageError: the server does not answer, or refuses.
        """
        opened, name, place = _opened(address, client)
        with _reported(place):
            already = RunError(
                f"{place}: there is a collection of this name already; choose another, or add to it"
            )
            if opened.collection_exists(name):
                raise already
            try:
                opened.create_collection(
                    name,
                    vectors_config=models.VectorParams(size=dim, distance=models.Distance.COSINE),
                    hnsw_config=models.HnswConfigDiff(m=0) if kind == "exact" else None,
                    metadata={"format": _FORMAT, "model": model, "kind": kind},
                )
            except grpc.RpcError:
                if opened.collection_exists(name):  # another process has made it meanwhile
                    raise already from None
                raise
            if client is None:  # a client without a server has no indexes
                opened.create_payload_index(name, "label", models.PayloadSchemaType.KEYWORD)
        if client is None:
            opened.close()
        return cls(address, client)

    def _check_model(self) -> None:
        """Raise a RunError if the collection was replaced by another one, of another model."""
        with _reported(self.place):
            info = self._client.get_collection(self._name)
        dim, model, _ = _checked(info, self.place)
        self._model_check.check(model, dim)

    def count(self) -> int:
        with _reported(self.place):
            return int(self._client.count(self._name, exact=True).count)

    def upsert(self, rows: StoredRows) -> int:
        """In requests of 2 MiB, each durable once it is answered."""
        self._check_model()
        step = max(1, min(_ROWS, _NUMBERS // self.dim))
        for begin in range(0, len(rows.table), step):
            facts = rows.table.slice(begin, step).to_pylist()
            points = models.Batch(
                ids=[_point_id(row["id"]) for row in facts],
                vectors=rows.vectors[begin : begin + step].tolist(),
                payloads=facts,
            )
            with _reported(self.place):
                self._client.upsert(self._name, points, wait=True)
        return len(rows.table)

    def delete(self, ids: Sequence[str]) -> int:
        removed = 0
        for begin in range(0, len(ids), _ROWS):
            points = [_point_id(id) for id in ids[begin : begin + _ROWS]]
            with _reported(self.place):
                there = self._client.retrieve(self._name, points, with_payload=False)
                found = [one.id for one in there]
                if found:
                    selector = models.PointIdsList(points=found)
                    self._client.delete(self._name, selector, wait=True)
            removed += len(found)
        return removed

    def search(
        self, queries: np.ndarray, k: int, *, exact: bool, among: Sequence[str] | None
    ) -> SearchHits:
        """By HNSW as far as Qdrant has built it; cosines are Qdrant's, in float32."""
        if self._model_check.is_due:
            self._check_model()
        chosen = None
        if among is not None:
            values = models.MatchAny(any=list(among))
            chosen = models.Filter(must=[models.FieldCondition(key="label", match=values)])
        params = models.SearchParams(
            exact=exact or among is not None or self.kind == "exact", hnsw_ef=max(_CANDIDATES, k)
        )
        limit = min(k, max(1, self.count())) if k > _ROWS else k
        found = []
        for begin in range(0, len(queries), _QUERIES):
            requests = [
                models.QueryRequest(
                    query=query.tolist(),
                    limit=limit,
                    filter=chosen,
                    params=params,
                    with_payload=["id", "label"],
                )
                for query in queries[begin : begin + _QUERIES]
            ]
            with _reported(self.place):
                answers = self._client.query_batch_points(self._name, requests)
            found += [[self._hit(point) for point in answer.points] for answer in answers]
        return hits_of(found)

    def read(
        self, ids: Sequence[str] | None = None, *, vectors: bool = False
    ) -> Iterator[StoredRows]:
        if ids is not None:
            for begin in range(0, len(ids), _ROWS):
                points = [_point_id(id) for id in ids[begin : begin + _ROWS]]
                with _reported(self.place):
                    found = self._client.retrieve(
                        self._name, points, with_payload=True, with_vectors=vectors
                    )
                yield self._rows(found, vectors)
            return
        offset: Any = None
        while True:
            with _reported(self.place):
                found, offset = self._client.scroll(
                    self._name,
                    limit=_ROWS,
                    offset=offset,
                    with_payload=True,
                    with_vectors=vectors,
                )
            if found:
                yield self._rows(found, vectors)
            if offset is None:
                return

    def _hit(self, point: Any) -> tuple[str, str | None, float]:
        facts = self._facts(point)
        return facts["id"], facts.get("label"), point.score

    def _rows(self, points: Sequence[Any], vectors: bool) -> StoredRows:
        facts = list(map(self._facts, points))
        found = np.empty((len(points), 0), np.float32)
        if vectors and points:
            found = np.array([point.vector for point in points], np.float32)
        columns: list[list[Any]] = [
            [row.get(name) for row in facts] for name in ("id", "label", "image", "version")
        ]
        return StoredRows(found, table_of(*columns))

    def _facts(self, point: Any) -> dict[str, Any]:
        """The payload of a point.

        Raises:
            RunError: it is another program's.
        """
        facts = dict(point.payload or {})
        if "id" not in facts:
            raise RunError(
                f"{self.place}: another program has put points into this collection ({point.id} "
                "has no image id in its payload); delete them, or use another collection"
            )
        return {"version": 0, **facts}

    def optimize(self, *, fully: bool = False) -> None:
        """Qdrant optimizes by itself."""

    def stats(self) -> dict[str, Any]:
        with _reported(self.place):
            info = self._client.get_collection(self._name)
        return {
            "images": self.count(),
            "dimension": self.dim,
            "model": self.model,
            "kind": self.kind,
            "status": str(getattr(info.status, "value", info.status)),
            "in_hnsw": info.indexed_vectors_count or 0,
        }

    def close(self) -> None:
        self._client.close()


def _opened(address: str, client: QdrantClient | None) -> tuple[QdrantClient, str, str]:
    """Client, name of the collection, and the place for messages."""
    if client is not None:
        return client, address, f"the collection {address}"
    host, port, name, tls = parse_qdrant(address)
    key = os.environ.get("QDRANT_API_KEY")
    place = storage.public(address)
    if key and not tls and host not in _LOOPBACK:
        logger.warning("%s: the API key is sent unencrypted; add ?tls=true", place)
    opened = QdrantClient(
        host=host,
        grpc_port=port,
        prefer_grpc=True,
        https=tls,
        headers={"api-key": key} if key else None,
        timeout=_SECONDS,
        grpc_options={"grpc.max_reconnect_backoff_ms": _RECONNECT_MS},
        check_compatibility=False,  # by HTTP, at a port that need not be reachable
    )
    return opened, name, place


def _point_id(id: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, id))


def _checked(info: Any, place: str) -> tuple[int, str, str]:
    """Dimension, model and kind of a collection of ours.

    Raises:
        RunError: it is another's.
    """
    about, vectors = info.config.metadata or {}, info.config.params.vectors
    size = getattr(vectors, "size", None)
    if about.get("format") != _FORMAT or size is None or not {"model", "kind"} <= about.keys():
        raise RunError(
            f"{place}: this collection was not made by lookalike, or by a server before Qdrant "
            "1.16 (its metadata do not name a model); choose another collection"
        )
    return int(size), str(about["model"]), str(about["kind"])


@contextmanager
def _reported(place: str) -> Iterator[None]:
    """Errors of Qdrant as those of ours.

    Raises:
        CredentialsError: the server refuses the API key.
        UnavailableError: it does not answer.
        StorageError: anything else.
    """
    try:
        yield
    except LookalikeError:
        raise
    except grpc.RpcError as error:
        raise _of_call(error, place) from None
    except (QdrantException, ValueError) as error:
        raise StorageError(f"{place}: {one_line(error)}") from None


def _of_call(error: Any, place: str) -> StorageError:
    code, reason = error.code(), one_line(Exception(error.details() or ""))
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return CredentialsError(
            f"{place}: Qdrant refuses the credentials ({reason}); set QDRANT_API_KEY"
        )
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return UnavailableError(f"{place}: Qdrant does not answer ({reason})")
    if code is grpc.StatusCode.NOT_FOUND:
        return StorageError(f"{place}: the collection is gone ({reason})")
    return StorageError(f"{place}: Qdrant answers {code.name}: {reason}")
