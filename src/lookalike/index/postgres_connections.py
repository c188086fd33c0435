"""Connections to PostgreSQL with pgvector: a pool, and its errors as ours."""

from __future__ import annotations

import re
import selectors
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql

from lookalike import storage
from lookalike.errors import (
    CredentialsError,
    DataError,
    LookalikeError,
    RunError,
    StorageError,
    UnavailableError,
    one_line,
)
from lookalike.index.database_address import parse_postgres

CANDIDATES = 200
"""That a search of HNSW keeps."""

_SECONDS = 10  # to connect
_NOT_READY = re.compile(
    r"starting up|shutting down|recovery mode|terminating connection|too many clients"
    r"|connection slots"
)


class PostgresConnections:
    """Connections to a database, each used by one thread at a time and kept for the next one.

    Attributes:
        place: the address without secrets, for messages.
    """

    def __init__(self, address: str) -> None:
        self.place = storage.public(address)
        self._conninfo, names = parse_postgres(address)
        self.table = sql.Identifier(*names)
        self._idle: deque[psycopg.Connection[Any]] = deque()
        self._finalizer = weakref.finalize(self, _close_all, self._idle)

    @contextmanager
    def bare(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection for one transaction, to a database that may lack the extension."""
        with reported(self.place):
            connected = psycopg.connect(self._conninfo, connect_timeout=_SECONDS)
            with connected as connection:
                yield connection

    @contextmanager
    def one(self) -> Iterator[psycopg.Connection[Any]]:
        """An idle connection, or a new one, that commits each statement and understands vectors."""
        with reported(self.place):
            connection = self._idle.pop() if self._idle else None
            if connection is None or _is_lost(connection):
                connection = _connected(self._conninfo, self.place)
            try:
                yield connection
            except psycopg.OperationalError:  # as when the server was started again
                self.close()
                raise
            finally:
                if not connection.closed:
                    self._idle.append(connection)

    def close(self) -> None:
        """Close those that are idle."""
        _close_all(self._idle)


def _is_lost(connection: psycopg.Connection[Any]) -> bool:
    """True if the server has ended an idle connection, as when it was started again."""
    if connection.closed:
        return True
    with selectors.DefaultSelector() as selector:
        selector.register(connection.fileno(), selectors.EVENT_READ)
        # To an idle connection a server sends nothing but its end.
        if not selector.select(0):
            return False
    connection.close()
    return True


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
        connection.execute(f"SET hnsw.ef_search = {CANDIDATES}")
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


def create_extension(connection: psycopg.Connection[Any], place: str) -> None:
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


@contextmanager
def reported(place: str) -> Iterator[None]:
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
    if not _NOT_READY.search(text) and (error.sqlstate is not None or "FATAL" in text):
        return StorageError(f"{place}: {reason}")
    return UnavailableError(f"{place}: PostgreSQL does not answer ({reason})")


def _close_all(idle: deque[psycopg.Connection[Any]]) -> None:
    while idle:
        idle.pop().close()
