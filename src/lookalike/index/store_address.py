"""Places of stores: folders of this machine, and addresses by their scheme."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lookalike import storage
from lookalike.errors import ConfigError, DataError, MissingExtraError, RunError, check_installed
from lookalike.index import manifest
from lookalike.index.database_address import parse_postgres, parse_qdrant
from lookalike.index.folder_store import FolderStore
from lookalike.index.store import Store
from lookalike.storage.uri import scheme_of
from lookalike.vectors.vector_files import SUFFIXES


@dataclass(frozen=True)
class Backend:
    """A kind of store.

    Attributes:
        module: with its class, imported when it is needed.
        package: that it needs, as it is imported.
        extra: that brings the package.
        form: of an address, for messages.
        parse: an address, without the package; raises a ConfigError for another form.
    """

    module: str
    name: str
    package: str
    extra: str
    form: str
    parse: Callable[[str], object]


BACKENDS = {
    "qdrant": Backend(
        "lookalike.index.qdrant_store", "QdrantStore", "qdrant_client", "qdrant",
        "qdrant://HOST:6334/COLLECTION", parse_qdrant,
    ),
    "postgresql": Backend(
        "lookalike.index.pgvector_store", "PgvectorStore", "psycopg", "pgvector",
        "postgresql://USER@HOST:5432/DATABASE/TABLE", parse_postgres,
    ),
}  # fmt: skip


_ALIASES = {"postgres": "postgresql"}  # as libpq takes it too


def is_store_address(place: str) -> bool:
    """True for an address of a database, as `qdrant://host:6334/shoes`."""
    return _backend_of(place) is not None


def _backend_of(place: str) -> Backend | None:
    scheme = scheme_of(place)
    return BACKENDS.get(_ALIASES.get(scheme, scheme))


def check_index_place(place: str) -> None:
    """Check the name of an index, without asking for it.

    Raises:
        ConfigError: an address is not of the form of its database.
        RunError: it is a folder of another machine.
    """
    backend = _backend_of(place)
    if backend is None:
        _folder(place)
    else:
        backend.parse(place)


def check_client(place: str) -> None:
    """Raise a MissingExtraError unless the client of an index in a database is installed."""
    backend = _backend_of(place)
    if backend is not None:
        check_installed(backend.extra, backend.package)


def check_vectors_place(place: str) -> None:
    """Raise a ConfigError unless vectors can be written to a place by its name."""
    if is_store_address(place):
        check_index_place(place)
    elif not place.endswith(SUFFIXES):
        forms = ", ".join(backend.form for backend in BACKENDS.values())
        raise ConfigError(
            f"{storage.public(place)}: the output's name must end in .npy or .parquet, or be an "
            f"index in a database: {forms}"
        )


def exists(place: str) -> bool:
    """True if there is an index; False where one could be made.

    Raises:
        LookalikeError: the store cannot be asked.
    """
    if is_store_address(place):
        return bool(_class_of(place).exists(place))
    return (_folder(place) / manifest.FILE).exists()


def open_store(place: str) -> Store:
    """The store of an index.

    Raises:
        LookalikeError: there is none, it is damaged, or not one of ours.
    """
    if is_store_address(place):
        found: Store = _class_of(place)(place)
        return found
    return FolderStore(_folder(place))


def create_store(place: str, *, model: str, dim: int, kind: str) -> Store:
    """A new store without rows.

    Raises:
        LookalikeError: there is one or something else, or it cannot be made.
    """
    if is_store_address(place):
        made: Store = _class_of(place).create(place, model=model, dim=dim, kind=kind)
        return made
    return FolderStore.create(_folder(place), model=model, dim=dim, kind=kind)


def check_kind(kind: object, place: str) -> None:
    """Raise a DataError unless a store at `place` has this kind of search."""
    kinds = Store.KINDS if is_store_address(place) else FolderStore.KINDS
    if kind not in kinds:
        raise DataError(f"kind={kind!r} is not one of {', '.join(kinds)}")


def _class_of(place: str) -> Any:
    backend = _backend_of(place)
    assert backend is not None
    backend.parse(place)
    try:
        importlib.import_module(backend.package)
    except ImportError:
        raise MissingExtraError(backend.package, backend.extra) from None
    return getattr(importlib.import_module(backend.module), backend.name)


def _folder(place: str) -> Path:
    if storage.is_remote(place):
        forms = ", ".join(backend.form for backend in BACKENDS.values())
        raise RunError(
            f"{storage.public(place)}: an index is mapped into memory; give a folder of this "
            f"machine, or a database: {forms}"
        )
    return Path(storage.local_path(place))
