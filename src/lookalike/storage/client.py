"""Base classes of the clients of storage."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import IO, Any

from lookalike.storage.download import ByteRange, Limits, download, download_to, headers_of
from lookalike.storage.event_loop import waited

PAGE = 1000
"""Keys in one answer to a listing: the most that S3 and OSS give."""


SIGNED_FOR = 3600
"""Seconds for which a signed URL can be used."""


class Client(ABC):
    """One kind of storage.

    Methods raise what its library raises, and `FileNotFoundError` and `PermissionError`.
    """

    @abstractmethod
    async def fetch(self, uri: str, part: ByteRange, limits: Limits) -> bytes:
        """The content of a file, or at most part[1] bytes from part[0] on."""

    @abstractmethod
    def copy_to(self, file: IO[bytes], uri: str) -> None:
        """Write the content of a remote file to `file`, as it comes."""

    @abstractmethod
    def describe(self, uri: str) -> dict[str, Any]:
        """Facts on a file: `size` in bytes, None if unknown, and those that name its version."""

    @abstractmethod
    def sizes_below(self, uri: str) -> dict[str, int]:
        """The size of each file below a folder, by its relative path: all of them, or an error."""

    @abstractmethod
    def has_below(self, uri: str) -> bool:
        """True if any file is below a folder of this name.

        Raises:
            FileNotFoundError: there is no such bucket.
        """

    def check_bucket(self, uri: str) -> None:
        """Ask for the bucket, or the root, of a URI that will be written to.

        Raises:
            FileNotFoundError: there is no such bucket.
            PermissionError: it may not be asked for; it may be written to, perhaps.
        """
        self.has_below(uri)

    @abstractmethod
    def upload(self, local: str, uri: str, size: int) -> None:
        """Copy a local file of this size."""

    @abstractmethod
    def remove(self, uri: str) -> None:
        """Remove a file."""

    def forget(self, uri: str) -> None:  # noqa: B027 - most storages keep no credentials
        """Read the credentials for `uri` again at the next request."""


class GetClient(Client):
    """Storage that is read by HTTP GETs of signed addresses."""

    explained = True
    """The body of a refusal states the reason."""

    @abstractmethod
    def url(self, uri: str) -> str:
        """The address to GET a file, signed and encoded."""

    async def fetch(self, uri: str, part: ByteRange, limits: Limits) -> bytes:
        return await download(self.url(uri), part, limits, explained=self.explained)

    def copy_to(self, file: IO[bytes], uri: str) -> None:
        waited(download_to(file, self.url(uri), explained=self.explained))

    def describe(self, uri: str) -> dict[str, Any]:
        return waited(headers_of(self.url(uri), explained=self.explained))


class BucketClient(GetClient):
    """Object storage, where folders are only parts of keys."""

    @abstractmethod
    def key_of(self, uri: str) -> str:
        """The key in the bucket."""

    @abstractmethod
    def objects(self, uri: str, prefix: str, page: int) -> Iterable[tuple[str, int]]:
        """Key and size of all objects in the bucket whose key begins with `prefix`, in order."""

    def sizes_below(self, uri: str) -> dict[str, int]:
        folder = _folder(self.key_of(uri))
        try:
            return {
                key.removeprefix(folder): size
                for key, size in self.objects(uri, folder, PAGE)
                if not key.endswith("/")  # what consoles write to show an empty folder
            }
        except FileNotFoundError:  # no such bucket
            return {}

    def has_below(self, uri: str) -> bool:
        return any(True for _ in self.objects(uri, _folder(self.key_of(uri)), 1))


def _folder(key: str) -> str:
    """The beginning of all keys below `key`; of the whole bucket, nothing."""
    return key if not key or key.endswith("/") else f"{key}/"
