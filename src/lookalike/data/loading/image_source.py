"""Where the bytes of images come from: this machine, a cache on it, or requests made ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Generic, TypeVar

import numpy as np

from lookalike import storage
from lookalike.data.decoding.jpeg_markers import completed
from lookalike.data.loading.read_ahead import Requests, Ticket
from lookalike.data.record import Record
from lookalike.storage import read_bytes
from lookalike.storage.disk_cache import DiskCache

REQUESTS = 128
"""In flight at a time: 3,000 images a second at 35 ms, and some more."""

IMAGE_LIMITS = storage.Limits(size=256 * 10**6, seconds=120.0)
"""What the file of one image may take, unless a run's settings say otherwise."""

Rows = TypeVar("Rows", bound=Sequence[int] | np.ndarray)
Tickets = list[Ticket | None]


class Source:
    """The bytes of records.

    What lies on this machine is read by the thread that decodes it. What does not is asked for
    ahead of its turn, and kept in the cache where there is one.

    Args:
        requests: to object storage at a time.
        cache: for what is not on this machine.
        limits: on the file of one image, and on the time that it takes to arrive.
        allow_truncated: give a JPEG an end whose own is missing when it is read again.
    """

    def __init__(
        self,
        *,
        requests: int = REQUESTS,
        cache: DiskCache | None = None,
        limits: storage.Limits = IMAGE_LIMITS,
        allow_truncated: bool = False,
    ) -> None:
        self._requests = requests
        self._limits = limits
        self._allow_truncated = allow_truncated
        self._cache = cache

    def read(self, record: Record, ticket: Ticket | None = None, *, fresh: bool = False) -> bytes:
        """The record's bytes.

        Args:
            record: the image.
            ticket: of what was asked for ahead and has arrived.
            fresh: not those of the cache, which turned out to be no image.

        Raises:
            StorageError: it cannot be read.
        """
        content = self._content(record, ticket, fresh)
        # Not at once: half a file may have come by chance, and be whole when it is read again.
        return completed(content) if fresh and self._allow_truncated else content

    def _content(self, record: Record, ticket: Ticket | None, fresh: bool) -> bytes:
        part = None if record.member is None else (record.member.offset, record.member.size)
        if self._cache is None or not storage.is_remote(record.uri):
            return ticket.take() if ticket is not None else self._read(record.uri, part)
        if ticket is None and not fresh:
            kept = self._cache.get(record.uri, part)
            if kept is not None:
                return kept
        content = ticket.take() if ticket is not None else self._read(record.uri, part)
        self._cache.put(record.uri, part, content)
        return content

    def _read(self, uri: str, part: tuple[int, int] | None) -> bytes:
        return read_bytes(uri, part=part, limits=self._limits)

    def ahead(
        self, plans: Iterator[Rows], record_of: Callable[[int], Record | None]
    ) -> Ahead[Rows]:
        """The `plans`, each with what has been asked for of it before its turn.

        Args:
            plans: rows of each batch.
            record_of: the record of a row; None where it will not be read.
        """
        return Ahead(plans, partial(self._wanted, record_of), self._requests, self._limits)

    def _wanted(
        self, record_of: Callable[[int], Record | None], rows: Sequence[int] | np.ndarray
    ) -> list[tuple[int, Record]]:
        """The places in `rows` of what must be asked for, and the records."""
        found = []
        for place, row in enumerate(rows):
            record = record_of(int(row))
            if record is None or not storage.is_remote(record.uri):
                continue
            part = None if record.member is None else (record.member.offset, record.member.size)
            if self._cache is None or not self._cache.has(record.uri, part):
                found.append((place, record))
        return found


class Ahead(Generic[Rows]):
    """Plans and the tickets of what they need; to be closed, which ends what is in flight.

    Iterating gives rows, and a ticket or None for each of them; None for all where nothing was
    asked for.
    """

    def __init__(
        self,
        plans: Iterator[Rows],
        wanted: Callable[[Rows], list[tuple[int, Record]]],
        most: int,
        limits: storage.Limits,
    ) -> None:
        self._plans = plans
        self._wanted = wanted
        self._most = most
        self._limits = limits
        self._requests: Requests | None = None
        self._asked: deque[tuple[Rows, Tickets | None]] = deque()
        self._pieces = 0

    def __iter__(self) -> Iterator[tuple[Rows, Tickets | None]]:
        return self

    def __next__(self) -> tuple[Rows, Tickets | None]:
        # Nothing is planned further ahead than requests need: local images cost no more than the
        # question where they are.
        while not self._asked or (self._requests is not None and self._pieces < 2 * self._most):
            rows = next(self._plans, None)
            if rows is None:
                break
            self._asked.append((rows, self._ask(rows)))
            self._pieces += len(rows)
        if not self._asked:
            raise StopIteration
        self._pieces -= len(self._asked[0][0])
        return self._asked.popleft()

    def close(self) -> None:
        """Ask for nothing more, and wait for nothing."""
        if self._requests is not None:
            self._requests.close()

    def _ask(self, rows: Rows) -> Tickets | None:
        wanted = self._wanted(rows)
        if not wanted:
            return None
        if self._requests is None:
            self._requests = Requests(self._most, limits=self._limits)
        tickets: Tickets = [None] * len(rows)
        given = self._requests.ask([record for _, record in wanted])
        for (place, _), ticket in zip(wanted, given, strict=True):
            tickets[place] = ticket
        return tickets


PLAIN = Source()
"""Without a cache."""
