"""An index in a table of PostgreSQL, searched by its extension pgvector.

    id text PRIMARY KEY, label text, image text, version bigint, vector vector(D)

The table's comment names the model and the kind of search. Passwords are libpq's matter:
PGPASSWORD, ~/.pgpass or a service file; an address with one is refused.
"""

from __future__ import annotations

import json
import re
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import psycopg
from pgvector import Vector
from pgvector.psycopg import register_vector
from psycopg import sql

from lookalike import storage
from lookalike.errors import (
    ConfigError,
    CredentialsError,
    DataError,
    LookalikeError,
    RunError,
    StorageError,
    UnavailableError,
    one_line,
)
from lookalike.index.store import SearchHits, Store, StoredRows, hits_of, table_of
from lookalike.log import logger

_FORMAT = "lookalike gallery 1"
_ROWS = 4096  # that are read at a time
_INDEXED_ROWS = 10_000  # from which an index of the vectors is worth building
_MOST_INDEXED_DIM = 2000  # of pgvector's HNSW for float32
_CANDIDATES = 200  # that a search of HNSW keeps
_MOST_CANDIDATES = 1000  # of pgvector
_SECONDS = 10  # to connect

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
        self.address, self.place = address, storage.public(address)
        self._conninfo, self._table = parse_address(address)
        self._idle: deque[psycopg.Connection[Any]] = deque()
        self._finalizer = weakref.finalize(self, _close_all, self._idle)
        with self._connection() as connection:
            found = _described(connection, self._table)
        if found is None:
            raise RunError(
                f"{self.place}: no index here (the table is missing); lookalike search with "
                "--index and --gallery makes one"
            )
        self.dim, self.model, self.kind = _checked(found, self.place)

    @classmethod
    def exists(cls, address: str) -> bool:
        """True if there is a table of this name, whosever it is."""
        conninfo, table = parse_address(address)
        place = storage.public(address)
        with _reported(place), psycopg.connect(conninfo, connect_timeout=_SECONDS) as connection:
            return _described(connection, table) is not None

    @classmethod
    def create(cls, address: str, *, model: str, dim: int, kind: str) -> PgvectorStore:
        """A new table without rows; the extension is created where it may be.

        Raises:
            RunError: there is a table of this name, or the server lacks the extension.
            StorageError: the server does not answer, or refuses.
        """
        conninfo, table = parse_address(address)
        place = storage.public(address)
        about = json.dumps({"format": _FORMAT, "model": model, "kind": kind})
        with _reported(place), psycopg.connect(conninfo, connect_timeout=_SECONDS) as connection:
            _create_extension(connection, place)
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

    def count(self) -> int:
        with self._connection() as connection:
            row = connection.execute(self._sql("SELECT count(*) FROM {table}")).fetchone()
        return int(row[0]) if row else 0

    def upsert(self, rows: StoredRows) -> int:
        """In one transaction: COPY into a temporary table, and from there."""
        if not len(rows.table):
            return 0
        columns = [column.to_pylist() for column in rows.table.columns]
        with self._connection() as connection, connection.transaction():
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
                    "SELECT id, label, image, version, vector FROM lookalike_rows "
                    "ON CONFLICT (id) DO UPDATE SET label = EXCLUDED.label, "
                    "image = EXCLUDED.image, version = EXCLUDED.version, vector = EXCLUDED.vector"
                )
            )
        return len(rows.table)

    def delete(self, ids: Sequence[str]) -> int:
        with self._connection() as connection:
            return connection.execute(
                self._sql("DELETE FROM {table} WHERE id = ANY(%s)"), [list(ids)]
            ).rowcount

    def search(
        self, queries: np.ndarray, k: int, *, exact: bool, among: Sequence[str] | None
    ) -> SearchHits:
        """By HNSW where there is one; a query that it finds too few for is searched exactly."""
        exact = exact or among is not None or k > _MOST_CANDIDATES or self.kind == "exact"
        with self._connection() as connection:
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
        if not exact and k <= _CANDIDATES:
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
            self._connection() as connection,
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
        if self.kind == "exact" or self.dim > _MOST_INDEXED_DIM or self._has_index():
            return
        count = self.count()
        if count < _INDEXED_ROWS:
            return
        logger.info("%s: building HNSW of %s images", self.place, f"{count:,}")
        with self._connection() as connection:
            with connection.transaction():
                # The build is several times faster where the graph fits into memory.
                megabytes = min(1024, 64 + count * (self.dim * 4 + 512) // 2**20)
                connection.execute(f"SET LOCAL maintenance_work_mem = '{megabytes}MB'")
                connection.execute(
                    self._sql("CREATE INDEX ON {table} USING hnsw (vector vector_ip_ops)")
                )
            connection.execute(self._sql("ANALYZE {table}"))

    def _has_index(self) -> bool:
        with self._connection() as connection:
            return bool(
                connection.execute(
                    "SELECT 1 FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
                    "JOIN pg_am ON pg_am.oid = relam "
                    "WHERE indrelid = %s::regclass AND amname = 'hnsw' AND indisvalid",
                    [self._table.as_string(connection)],
                ).fetchone()
            )

    def stats(self) -> dict[str, Any]:
        with self._connection() as connection:
            size = connection.execute(
                "SELECT pg_total_relation_size(%s::regclass)", [self._table.as_string(connection)]
            ).fetchone()
        return {
            "images": self.count(),
            "dimension": self.dim,
            "model": self.model,
            "kind": self.kind,
            "searched_by": "hnsw" if self._has_index() else "a scan of all",
            "bytes": int(size[0]) if size else 0,
        }

    def close(self) -> None:
        _close_all(self._idle)

    def _sql(self, text: str) -> sql.Composed:
        return sql.SQL(text).format(table=self._table)

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[Any]]:
        """An idle connection, or a new one; a broken one is not used again."""
        with _reported(self.place):
            connection = self._idle.pop() if self._idle else None
            if connection is None or connection.closed:
                connection = _connected(self._conninfo, self.place)
            try:
                yield connection
            except psycopg.OperationalError:  # as when the server was started again
                self.close()
                raise
            finally:
                if not connection.closed:
                    self._idle.append(connection)


def parse_address(address: str) -> tuple[str, sql.Identifier]:
    """The conninfo of libpq, and the table, of `postgresql://USER@HOST/DATABASE/[SCHEMA.]TABLE`.

    Raises:
        ConfigError: another form, or a password.
    """
    place, _, query = address.partition("?")
    rest = place.partition("://")[2]
    host, _, path = rest.partition("/")
    form = "postgresql://USER@HOST:5432/DATABASE/TABLE"
    secrets = {"password", "sslpassword"} & {name for name, _ in parse_qsl(query)}
    if ":" in host.rpartition("@")[0] or secrets:
        raise ConfigError(
            f"{storage.public(address)}: an address must not hold a password, which logs and "
            "histories keep; set PGPASSWORD, or write it to ~/.pgpass"
        )
    database, _, table = path.partition("/")
    names = table.split(".")
    if not database or not all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", n) for n in names):
        raise ConfigError(
            f"{storage.public(address)}: not of the form {form}, with a table named by letters, "
            "digits and _"
        )
    if len(names) > 2:
        raise ConfigError(f"{storage.public(address)}: a table is TABLE or SCHEMA.TABLE")
    conninfo = f"postgresql://{host}/{database}" + (f"?{query}" if query else "")
    return conninfo, sql.Identifier(*names)


def _connected(conninfo: str, place: str) -> psycopg.Connection[Any]:
    """A connection that commits each statement and understands vectors."""
    connection = psycopg.connect(conninfo, connect_timeout=_SECONDS, autocommit=True)
    try:
        version = _version(connection)
        if version is None:
            raise RunError(f"{place}: no index here (the database lacks the extension vector)")
        if tuple(map(int, re.findall(r"\d+", version)[:2])) < (0, 8):
            raise RunError(
                f"{place}: pgvector {version} is too old, 0.8 is needed: ALTER EXTENSION vector "
                "UPDATE"
            )
        register_vector(connection)
        connection.execute(f"SET hnsw.ef_search = {_CANDIDATES}")
        # Else a search that passes many deleted rows ends before it has found enough.
        connection.execute("SET hnsw.iterative_scan = strict_order")
    except BaseException:
        connection.close()
        raise
    return connection


def _version(connection: psycopg.Connection[Any]) -> str | None:
    """Of the extension; None where the database lacks it."""
    found = connection.execute(
        "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
    ).fetchone()
    return None if found is None else str(found[0])


def _create_extension(connection: psycopg.Connection[Any], place: str) -> None:
    """Create the extension where it is missing.

    Raises:
        RunError: the server does not have it, or the user may not create it.
    """
    if _version(connection) is not None:
        return
    try:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except psycopg.errors.InsufficientPrivilege:
        raise RunError(
            f"{place}: the database lacks the extension vector, and this user may not create it; "
            "ask an administrator of the database to run: CREATE EXTENSION vector"
        ) from None
    except (psycopg.errors.UndefinedFile, psycopg.errors.FeatureNotSupported):
        raise RunError(
            f"{place}: the server lacks pgvector; install it there (Debian: "
            "postgresql-NN-pgvector, or an image that has it)"
        ) from None


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


@contextmanager
def _reported(place: str) -> Iterator[None]:
    """Errors of PostgreSQL as those of ours.

    Raises:
        CredentialsError: the server refuses the user or the password.
        UnavailableError: it does not answer, or has gone.
        DataError: a text that PostgreSQL cannot hold.
        StorageError: anything else.
    """
    try:
        yield
    except LookalikeError:
        raise
    except psycopg.errors.InsufficientPrivilege as error:
        raise CredentialsError(f"{place}: {one_line(error)}") from None
    except psycopg.OperationalError as error:
        raise _of_connection(error, place) from None
    except psycopg.DataError as error:
        raise DataError(f"{place}: {one_line(error)}") from None
    except psycopg.Error as error:
        raise StorageError(f"{place}: {one_line(error)}") from None


def _of_connection(error: psycopg.OperationalError, place: str) -> StorageError:
    text = str(error)
    reason = one_line(error).rpartition("FATAL:  ")[2] if "FATAL" in text else one_line(error)
    if "no password supplied" in text or "authentication failed" in text:
        return CredentialsError(
            f"{place}: PostgreSQL refuses the credentials ({reason}); name the user in the "
            "address, and give the password by PGPASSWORD or ~/.pgpass"
        )
    if error.sqlstate is not None or "FATAL" in text:
        return StorageError(f"{place}: {reason}")
    return UnavailableError(f"{place}: PostgreSQL does not answer ({reason})")


def _close_all(idle: deque[psycopg.Connection[Any]]) -> None:
    while idle:
        idle.pop().close()
