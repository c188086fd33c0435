"""Web servers as storage: files by their addresses, read only."""

from typing import Any

from lookalike.errors import StorageError
from lookalike.storage.download import headers_of, sendable
from lookalike.storage.event_loop import waited
from lookalike.storage.fsspec_client import sizes_below
from lookalike.storage.uri import public

__all__ = ["describe", "forget", "has_below", "remove", "sizes_below", "upload", "url"]


def url(uri: str) -> str | None:
    """The address as it is sent."""
    return sendable(uri)


def describe(uri: str) -> dict[str, Any]:
    """`size` of a file, None if the server does not say it, `ETag`, and `ranges`: if it knows them.

    Raises:
        FileNotFoundError: there is no such file.
    """
    return waited(headers_of(sendable(uri)))


def has_below(uri: str) -> bool:
    """False: a web server has no folders, only pages."""
    return False


def read_only(uri: str) -> StorageError:
    """The error of writing to a web server."""
    return StorageError(
        f"{public(uri)}: nothing can be written to a web server; give a path of this machine, or a "
        "URI in object storage"
    )


def upload(local: str, uri: str, size: int) -> None:
    """Refused."""
    raise read_only(uri)


def remove(uri: str) -> None:
    """Refused."""
    raise read_only(uri)


def forget() -> None:
    """Nothing: addresses hold their credentials themselves."""
