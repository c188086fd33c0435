"""The client of one kind of storage: reading by GETs, and what the kinds have of their own."""

from collections.abc import Iterable
from typing import IO, Any, NamedTuple

from lookalike.storage.download import Limits, Part, download, download_to, headers_of
from lookalike.storage.event_loop import waited

PAGE = 1000
"""Keys in one answer to a listing: the most that S3 and OSS give."""


class Client:
    """One kind of storage, read from signed addresses.

    Methods raise what its library raises, and `FileNotFoundError` and `PermissionError`.
    """

    explained = True
    """The body of a refusal states the reason."""

    def url(self, uri: str) -> str:
        """The address to GET a file, signed and encoded."""
        raise NotImplementedError

    async def fetch(self, uri: str, part: Part, limits: Limits) -> bytes:
        """The content of a file, or at most part[1] bytes from part[0] on."""
        return await download(self.url(uri), part, limits, explained=self.explained)

    def copy_to(self, file: IO[bytes], uri: str) -> None:
        """Write the content of a remote file to `file`, as it comes."""
        waited(download_to(file, self.url(uri), explained=self.explained))

    def describe(self, uri: str) -> dict[str, Any]:
        """Facts on a file: `size` in bytes, None if unknown, and those that name its version."""
        return waited(headers_of(self.url(uri), explained=self.explained))

    def sizes_below(self, uri: str) -> dict[str, int]:
        """The size of each file below a folder, by its relative path: all of them, or an error."""
        raise NotImplementedError

    def has_below(self, uri: str) -> bool:
        """True if any file is below a folder of this name."""
        raise NotImplementedError

    def upload(self, local: str, uri: str, size: int) -> None:
        """Copy a local file of this size."""
        raise NotImplementedError

    def remove(self, uri: str) -> None:
        """Remove a file."""
        raise NotImplementedError

    def forget(self) -> None:
        """Read the credentials anew at the next request."""


class StoredObject(NamedTuple):
    """An object in a bucket."""

    key: str
    size: int


class BucketClient(Client):
    """Object storage, where folders are only parts of keys."""

    def key_of(self, uri: str) -> str:
        """The key in the bucket."""
        raise NotImplementedError

    def objects(self, uri: str, prefix: str, page: int) -> Iterable[StoredObject]:
        """All objects of the bucket of `uri` whose key begins with `prefix`, in order."""
        raise NotImplementedError

    def sizes_below(self, uri: str) -> dict[str, int]:
        folder = _folder(self.key_of(uri))
        try:
            return {
                found.key.removeprefix(folder): found.size
                for found in self.objects(uri, folder, PAGE)
                if not found.key.endswith("/")  # what consoles write to show an empty folder
            }
        except FileNotFoundError:  # no such bucket
            return {}

    def has_below(self, uri: str) -> bool:
        try:
            return any(True for _ in self.objects(uri, _folder(self.key_of(uri)), 1))
        except FileNotFoundError:
            return False


def _folder(key: str) -> str:
    """The beginning of all keys below `key`; of the whole bucket, nothing."""
    return key if not key or key.endswith("/") else f"{key}/"
