"""A remote file as a stream that can seek: read in large parts."""

from __future__ import annotations

import io
from typing import IO, Any

from lookalike.errors import StorageError
from lookalike.storage.clients import filesystem_of
from lookalike.storage.get_request import get
from lookalike.storage.listing import described
from lookalike.storage.retry import retrying
from lookalike.storage.uri import scheme_of

_PART = 8 * 2**20  # bytes a request; what a small read brings too many of is read next


def stream_of(uri: str) -> IO[bytes]:
    """The content of remote `uri`.

    Raises:
        Exception: what the client raises; of S3 and OSS a StorageError while it is read.
    """
    if scheme_of(uri) in ("s3", "s3a", "oss"):
        size = described(uri)["size"]
        return io.BufferedReader(_Parts(uri, size), _PART)
    filesystem, path = filesystem_of(uri)
    opened: IO[bytes] = filesystem.open(path, "rb")
    return opened


class _Parts(io.RawIOBase):
    def __init__(self, uri: str, size: int) -> None:
        self._uri = uri
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self._size - self._position)
        if count <= 0:
            return 0
        part = self._position, count
        content = retrying(lambda: get(self._uri, part), self._uri, 2)
        if not content:
            raise StorageError(f"ends at {self._position:,} of {self._size:,} bytes")
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)
