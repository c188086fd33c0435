"""The bytes of images, from this machine, a cache on it or elsewhere, and the threads that read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from lookalike import storage
from lookalike.data.decoding.decode import BadImage
from lookalike.data.decoding.jpeg_markers import completed
from lookalike.data.loading.read_ahead import PendingBytes
from lookalike.data.record import Record
from lookalike.errors import check_integer
from lookalike.storage import read_bytes
from lookalike.storage.disk_cache import DiskCache

REQUESTS = 128
"""In flight at a time: 3,000 images a second at 35 ms, and some more."""

IMAGE_LIMITS = storage.Limits(size=256 * 10**6, seconds=120.0)
"""On the file of one image, unless the settings of a run change it."""

T = TypeVar("T")


class Source:
    """The bytes of records.

    Files of this machine are read by the thread that decodes them. Others are fetched ahead of
    their turn, and kept in the cache where there is one.

    Args:
        threads: that read and decode, on each worker; with 0 the caller's does.
        requests: to object storage at a time.
        cache: for images that are not on this machine.
        limits: on the file of one image, and on the time that it takes to arrive.
        allow_truncated: add the missing end to a truncated JPEG when it is read again.

    Raises:
        ConfigError: `threads` is no number of threads.
    """

    def __init__(
        self,
        *,
        threads: int = 4,
        requests: int = REQUESTS,
        cache: DiskCache | None = None,
        limits: storage.Limits = IMAGE_LIMITS,
        allow_truncated: bool = False,
    ) -> None:
        check_integer("threads", threads, 0)
        self.threads = threads
        self.requests = requests
        self.limits = limits
        self._allow_truncated = allow_truncated
        self.cache = cache

    def is_elsewhere(self, record: Record) -> bool:
        """True if the bytes are neither on this machine nor in the cache."""
        if not storage.is_remote(record.uri):
            return False
        return self.cache is None or not self.cache.has(record.uri, record.byte_range)

    def read(
        self, record: Record, pending: PendingBytes | None = None, *, fresh: bool = False
    ) -> bytes:
        """The record's bytes; `fresh` ones where those of the cache turned out to be no image.

        Raises:
            StorageError: it cannot be read.
        """
        content = self._content(record, pending, fresh)
        # Not at once: a server under load may send half a file once, and the whole one next time.
        return completed(content) if fresh and self._allow_truncated else content

    def _content(self, record: Record, pending: PendingBytes | None, fresh: bool) -> bytes:
        part = record.byte_range
        cache = self.cache if storage.is_remote(record.uri) else None
        if pending is not None:
            content = pending.take()
        else:
            kept = None if cache is None or fresh else cache.get(record.uri, part)
            if kept is not None:
                return kept
            content = read_bytes(record.uri, part=part, limits=self.limits, regular=True)
        if cache is not None:
            cache.put(record.uri, part, content)
        return content


PLAIN = Source()
"""Without a cache, by the defaults."""


def read_twice(
    record: Record,
    use: Callable[[bytes], T],
    source: Source = PLAIN,
    pending: PendingBytes | None = None,
) -> T:
    """`use` of the record's bytes; again, with fresh ones, if that raises BadImage.

    A file server under load may hand out half a file.
    """
    try:
        return use(source.read(record, pending))
    except BadImage:
        return use(source.read(record, fresh=True))
