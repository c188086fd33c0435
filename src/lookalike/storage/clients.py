"""The client of each kind of storage, by the scheme of a URI."""

import threading
from typing import Any, Protocol

from lookalike.storage import fsspec_client, oss, s3, web
from lookalike.storage.uri import is_remote, scheme_of

_lock = threading.Lock()
_credentials = 0


class Client(Protocol):
    """One kind of storage. All functions raise what its library raises, and `FileNotFoundError`."""

    def url(self, uri: str) -> str | None:
        """The address to GET, signed; None for a storage that is not read by HTTP requests."""

    def describe(self, uri: str) -> dict[str, Any]:
        """Facts about a file: `size` (bytes, None if unknown), and what its version is known by."""

    def sizes_below(self, uri: str) -> dict[str, int]:
        """The size of each file below a folder, by its relative path: all of them, or an error."""

    def has_below(self, uri: str) -> bool:
        """True if any file is below a folder of this name."""

    def upload(self, local: str, uri: str, size: int) -> None:
        """Copy a local file of this size."""

    def remove(self, uri: str) -> None:
        """Remove a file."""

    def forget(self) -> None:
        """Read the credentials anew at the next request."""


_CLIENTS: dict[str, Client] = {"s3": s3, "s3a": s3, "oss": oss, "http": web, "https": web}


def client_of(uri: str) -> Client:
    """The client of a remote URI; fsspec's for all schemes without one of ours."""
    return _CLIENTS.get(scheme_of(uri), fsspec_client)


def check_writable(uri: str) -> None:
    """Refuse a URI that no file can be written to, before the work whose result goes there.

    Raises:
        StorageError: `uri` is of a web server, or of a storage that is not supported.
    """
    client = client_of(uri)
    if client is fsspec_client and is_remote(uri):
        fsspec_client.check_scheme(uri)
    if client is web:
        raise web.read_only(uri)


def credentials_number() -> int:
    """A number that grows whenever credentials are read anew."""
    return _credentials


def forget_credentials(uri: str, number: int) -> None:
    """Read the credentials for `uri` anew at the next request, as they were refused.

    Of many requests that are refused with the credentials of one `number`, only the first acts.
    """
    global _credentials
    with _lock:
        if number == _credentials:
            _credentials += 1
            client_of(uri).forget()
