"""An index in a table of PostgreSQL, searched by its extension pgvector.

    id text PRIMARY KEY, label text, image text, version bigint, vector vector(D)

The table's comment names the model and the kind of search. Passwords are libpq's matter:
PGPASSWORD, ~/.pgpass or a service file; an address with one is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import psycopg
from pgvector import Vector
from psycopg import sql

from lookalike.errors import RunError, one_line
from lookalike.index.postgres_connections import (
    CANDIDATES,
    PostgresConnections,
    create_extension,
)
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
_ROWS = 4096  # that are read at a time
INDEXED_ROWS = 10_000  # from which an index of the vectors is worth building
_MOST_INDEXED_DIM = 2000  # of pgvector's HNSW for float32
_MOST_CANDIDATES = 1000  # of pgvector

_COLUMNS = "id, label, image, version"


class PgvectorStore(Store):
    """A table of PostgreSQL with pgvector 0.8 or newer.

    Connections are kept, and one is taken for each operation, so that threads do not wait for each
    other. An upsert is one transaction. HNSW is built after the first large addition.

    Raises:
        RunError: there is no such table, or it is not one of ours.
        StorageError: the server does not answer, or refuses.
    """

    def __init__(self, address: str) -> None:
        self._connections = PostgresConnections(address)
        self.address, self.place = address, self._connections.place
        self._table = self._connections.table
        with self._connections.one() as connection:
            found = _described(connection, self._table)
        if found is None:
            raise RunError(
                f"{self.place}: no index here (the table is missing); lookalike search with "
                "--index and --gallery makes one"
            )
        self.dim, self.model, self.kind = _checked(found, self.place)
        self._model_check = ModelCheck(self.place, self.model, self.dim)

    @classmethod
    def exists(cls, address: str) -> bool:
        """True if there is a table of this name, whosever it is."""
        connections = PostgresConnections(address)
        with connections.bare() as connection:
            return _described(connection, connections.table) is not None

    @classmethod
    def create(cls, address: str, *, model: str, dim: int, kind: str) -> PgvectorStore:
        """A new table without rows; the extension is created where it may be.

        Raises:
            RunError: there is a table of this name, or the server lacks the extension.
            StorageError: the server does not answer, or refuses.
        """
        connections = PostgresConnections(address)
        place, table = connections.place, connections.table
        about = json.dumps({"format": _FORMAT, "model": model, "kind": kind})
        with connections.bare() as connection:
            # Processes that create at the same time wait for each other.
            connection.execute("SELECT pg_advisory_xact_lock(hashtext('lookalike'))")
            create_extension(connection, place)
            try:
                connection.execute(
                    sql.SQL(
                        "CREATE TABLE {} (id text PRIMARY KEY, label text, image text, "
                        "version bigint NOT NULL, vector vector({}) NOT NULL)"
                    ).format(table, sql.Literal(dim))
                )
            except psycopg.errors.DuplicateTable:
                raise RunError(
                    f"{place}: there is a table of this name already; choose another, or add to it"
                ) from None
            connection.execute(
                sql.SQL("COMMENT ON TABLE {} IS {}").format(table, sql.Literal(about))
            )
        return cls(address)

    def _check_model(self, connection: psycopg.Connection[Any]) -> None:
        """Raise a RunError if the table was replaced by another one, of another model."""
        found = _described(connection, self._table)
        if found is not None:  # else the next statement fails
            dim, model, _ = _checked(found, self.place)
            self._model_check.check(model, dim)

    def count(self) -> int:
        with self._connections.one() as connection:
            return self._count(connection)

    def _count(self, connection: psycopg.Connection[Any]) -> int:
        row = connection.execute(self._sql("SELECT count(*) FROM {table}")).fetchone()
        return int(row[0]) if row else 0

    def upsert(self, rows: StoredRows) -> int:
        """In one transaction: COPY into a temporary table, and from there."""
        if not len(rows.table):
            return 0
        columns = [column.to_pylist() for column in rows.table.columns]
        with self._connections.one() as connection, connection.transaction():
            self._check_model(connection)
            connection.execute(
                self._sql(
                    "CREATE TEMPORARY TABLE IF NOT EXISTS lookalike_rows (LIKE {table}) "
                    "ON COMMIT DELETE ROWS"
                )
            )
            copied = sql.SQL(
                "COPY lookalike_rows (id, label, image, version, vector) FROM STDIN (FORMAT BINARY)"
            )
            with connection.cursor().copy(copied) as copy:
                copy.set_types(["text", "text", "text", "int8", "vector"])
                for *facts, vector in zip(*columns, rows.vectors, strict=True):
                    copy.write_row((*facts, Vector(vector)))
            connection.execute(
                self._sql(
                    "INSERT INTO {table} (id, label, image, version, vector) "
                    # In one order, or two processes with the same ids wait for each other.
                    "SELECT id, label, image, version, vector FROM lookalike_rows ORDER BY id "
                    "ON CONFLICT (id) DO UPDATE SET label = EXCLUDED.label, "
                    "image = EXCLUDED.image, version = EXCLUDED.version, vector = EXCLUDED.vector"
                )
            )
        return len(rows.table)

    def delete(self, ids: Sequence[str]) -> int:
        with self._connections.one() as connection:
            return connection.execute(
                self._sql("DELETE FROM {table} WHERE id = ANY(%s)"), [list(ids)]
            ).rowcount

    def search(
        self, queries: np.ndarray, k: int, *, exact: bool, among: Sequence[str] | None
    ) -> SearchHits:
        """By HNSW where there is one; a query that it finds too few for is searched exactly."""
        exact = exact or among is not None or k > _MOST_CANDIDATES or self.kind == "exact"
        with self._connections.one() as connection:
            if self._model_check.is_due:
                self._check_model(connection)
            found = [self._nearest(connection, query, k, exact, among) for query in queries]
            if not exact and any(len(hits) < k for hits in found):
                found = [self._nearest(connection, query, k, True, among) for query in queries]
        return hits_of(found)

    def _nearest(
        self,
        connection: psycopg.Connection[Any],
        query: np.ndarray,
        k: int,
        exact: bool,
        among: Sequence[str] | None,
    ) -> list[tuple[str, str | None, float]]:
        chosen = "" if among is None else "WHERE label = ANY(%(labels)s) "
        statement = self._sql(
            "SELECT id, label, -(vector <#> %(query)s) FROM {table} "
            f"{chosen}ORDER BY vector <#> %(query)s LIMIT {k:d}"
        )
        values = {"query": Vector(query), "labels": None if among is None else list(among)}
        if not exact and k <= CANDIDATES:
            return connection.execute(statement, values, prepare=True).fetchall()
        with connection.transaction():
            if exact:
                connection.execute("SET LOCAL enable_indexscan = off")
            else:
                connection.execute(f"SET LOCAL hnsw.ef_search = {k:d}")
            return connection.execute(statement, values, prepare=False).fetchall()

    def read(
        self, ids: Sequence[str] | None = None, *, vectors: bool = False
    ) -> Iterator[StoredRows]:
        """By a cursor of the server: memory holds some thousand rows."""
        columns = _COLUMNS + (", vector" if vectors else "")
        chosen = "" if ids is None else " WHERE id = ANY(%s)"
        with (
            self._connections.one() as connection,
            connection.transaction(),
            connection.cursor("lookalike_read", binary=True) as cursor,
        ):
            values = [] if ids is None else [list(ids)]
            cursor.execute(self._sql(f"SELECT {columns} FROM {{table}}{chosen}"), values)
            while rows := cursor.fetchmany(_ROWS):
                found = np.empty((len(rows), 0), np.float32)
                if vectors:
                    found = np.stack([row[4].to_numpy() for row in rows]).astype(np.float32)
                table = table_of(*zip(*(row[:4] for row in rows), strict=True))
                yield StoredRows(found, table)

    def optimize(self, *, fully: bool = False) -> None:
        """Build HNSW once there are enough rows; later additions enter it one by one."""
        if self.kind == "exact" or self.dim > _MOST_INDEXED_DIM:
            return
        with self._connections.one() as connection:
            if self._has_index(connection) or (count := self._count(connection)) < INDEXED_ROWS:
                return
            try:
                with connection.transaction():
                    self._build_index(connection, count)
            except psycopg.errors.InsufficientPrivilege as error:
                logger.warning(
                    "%s: HNSW is not built, so that searches scan all images: %s; let "
                    "the table's owner add an image, or build it: CREATE INDEX ON %s USING hnsw "
                    "(vector vector_ip_ops)",
                    self.place, one_line(error), self._table.as_string(connection),
                )  # fmt: skip
                return
            connection.execute(self._sql("ANALYZE {table}"))

    def _build_index(self, connection: psycopg.Connection[Any], count: int) -> None:
        """Build HNSW, unless another process has done so while this one waited for it."""
        name = self._table.as_string(connection)
        connection.execute("SELECT pg_advisory_xact_lock(%s::regclass::oid::bigint)", [name])
        if self._has_index(connection):
            return
        logger.info("%s: building HNSW of %s images", self.place, f"{count:,}")
        # The build is several times faster where the graph fits into memory.
        megabytes = min(1024, 64 + count * (self.dim * 4 + 512) // 2**20)
        connection.execute(f"SET LOCAL maintenance_work_mem = '{megabytes}MB'")
        connection.execute(self._sql("CREATE INDEX ON {table} USING hnsw (vector vector_ip_ops)"))

    def _has_index(self, connection: psycopg.Connection[Any]) -> bool:
        return bool(
            connection.execute(
                "SELECT 1 FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
                "JOIN pg_am ON pg_am.oid = relam "
                "WHERE indrelid = %s::regclass AND amname = 'hnsw' AND indisvalid",
                [self._table.as_string(connection)],
            ).fetchone()
        )

    def stats(self) -> dict[str, Any]:
        with self._connections.one() as connection:
            size = connection.execute(
                "SELECT pg_total_relation_size(%s::regclass)", [self._table.as_string(connection)]
            ).fetchone()
            is_indexed = self._has_index(connection)
        return {
            "images": self.count(),
            "dimension": self.dim,
            "model": self.model,
            "kind": self.kind,
            "searched_by": "hnsw" if is_indexed else "a scan of all",
            "bytes": int(size[0]) if size else 0,
        }

    def close(self) -> None:
        self._connections.close()

    def _sql(self, text: str) -> sql.Composed:
        return sql.SQL(text).format(table=self._table)


def _described(
    connection: psycopg.Connection[Any], table: sql.Identifier
) -> tuple[str | None, int | None] | None:
    """Comment and dimension of the column `vector` of a table; None where there is no table."""
    found = connection.execute(
        "SELECT obj_description(c.oid, 'pg_class'), a.atttypmod FROM pg_class c "
        "LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'vector' "
        "WHERE c.oid = to_regclass(%s)",
        [table.as_string(connection)],
    ).fetchone()
    return None if found is None else (found[0], found[1])


def _checked(found: tuple[str | None, int | None], place: str) -> tuple[int, str, str]:
    """Dimension, model and kind of a table of ours.

    Raises:
        RunError: it is another's.
    """
    comment, dim = found
    try:
        about = json.loads(comment or "")
        if about["format"] != _FORMAT or dim is None:
            raise KeyError
        return dim, str(about["model"]), str(about["kind"])
    except (ValueError, KeyError, TypeError):
        raise RunError(
            f"{place}: this table was not made by lookalike (its comment does not name a model); "
            "choose another table"
        ) from None
