"""Web servers as storage: files by their addresses, read only."""

from lookalike.errors import StorageError
from lookalike.storage.client import GetClient
from lookalike.storage.download import sendable
from lookalike.storage.fsspec_client import FsspecClient
from lookalike.storage.uri import public


class Web(GetClient):
    """Files on web servers, which have no folders but pages of links."""

    explained = False

    def url(self, uri: str) -> str:
        return sendable(uri)

    def sizes_below(self, uri: str) -> dict[str, int]:
        return FsspecClient().sizes_below(uri)

    def has_below(self, uri: str) -> bool:
        return False

    def upload(self, local: str, uri: str, size: int) -> None:
        raise read_only(uri)

    def remove(self, uri: str) -> None:
        raise read_only(uri)


def read_only(uri: str) -> StorageError:
    """The error of writing to a web server."""
    return StorageError(
        f"{public(uri)}: nothing can be written to a web server; give a path of this machine, or a "
        "URI in object storage"
    )
