"""A remote file as a stream that can seek."""

from __future__ import annotations

import io
import tempfile
from typing import IO, Any

from lookalike.errors import StorageError
from lookalike.storage.client_registry import client_of, fetch
from lookalike.storage.event_loop import waited
from lookalike.storage.retry import retrying_there

_PART = 8 * 2**20  # bytes of a request; small reads take them from memory


def stream_of(uri: str) -> IO[bytes]:
    """The content of remote `uri`, read in parts; from a server without ranges, copied first.

    Raises:
        Exception: of the client, now; a StorageError while it is read.
    """
    client = client_of(uri)
    found = client.describe(uri)
    if found["size"] is not None and found.get("ranges", True):
        return io.BufferedReader(_RemoteParts(uri, found["size"]), _PART)
    file = tempfile.TemporaryFile()  # noqa: SIM115  # the caller closes it
    client.copy_to(file, uri)
    file.seek(0)
    return file


class _RemoteParts(io.RawIOBase):
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
        content = waited(retrying_there(lambda: fetch(self._uri, part), self._uri, 2))
        if not content:
            raise StorageError(f"ends at {self._position:,} of {self._size:,} bytes")
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)
