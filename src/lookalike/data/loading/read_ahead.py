"""Remote images asked for before their turn, many at a time.

By Little's law, 3,000 images a second that take 35 ms each are 105 requests in flight, however
few threads decode. So requests wait in one loop, and only what they bring is work for threads.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable

from lookalike import storage
from lookalike.data.record import Record
from lookalike.storage.event_loop import running_loop

MOST_BYTES = 256 * 2**20
"""Of images that have been asked for and are not being decoded yet, for each worker."""

_GUESS = 256 * 2**10  # bytes of an image, before the first has arrived


class Ticket:
    """One record whose bytes have been asked for."""

    def __init__(self, record: Record, owner: Requests) -> None:
        self.record = record
        self._owner = owner
        self._lock = threading.Lock()
        self._over = self._dropped = False
        self._content: bytes | None = None
        self._error: Exception | None = None
        self._then: Callable[[], None] | None = None

    def when_over(self, then: Callable[[], None]) -> None:
        """Have `then` called when the answer is there: at once if it is, else from the loop."""
        with self._lock:
            if not self._over:
                self._then = then
                return
        then()

    def take(self) -> bytes:
        """The answer, once and when it is there.

        Raises:
            StorageError: what `storage.read_bytes` would have raised.
        """
        content, error = self._content, self._error
        self.drop()
        if error is not None:
            raise error
        assert content is not None
        return content

    def drop(self) -> None:
        """Make room: the bytes are in use now, or not wanted."""
        with self._lock:
            self._dropped = True
            size = len(self._content or b"")
            self._content = None
        if size:
            self._owner._freed(size)

    def _answer(self, content: bytes | None, error: Exception | None) -> None:
        with self._lock:
            self._content, self._error, self._over = content, error, True
            then, self._then = self._then, None
            dropped = self._dropped
        if dropped:
            self.drop()
        if then is not None:
            then()


class Requests:
    """Requests in flight, so many and so many bytes at a time; begun in the order they come.

    Nothing here but `ask`, `close` and `_freed` is called outside of the loop.

    Args:
        most: requests in flight at a time.
        most_bytes: that may lie here or be on their way; one image more than that is on its way
            only when nothing else is.
        limits: on each of them.
    """

    def __init__(
        self,
        most: int,
        most_bytes: int = MOST_BYTES,
        limits: storage.Limits = storage.NO_LIMITS,
    ) -> None:
        self._most = most
        self._limits = limits
        self._most_bytes = most_bytes
        self._loop = running_loop()
        self._waiting: deque[Ticket] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._expected = 0  # bytes on their way
        self._held = 0  # bytes that lie here
        self._arrived = self._arrived_bytes = 0
        self._closed = False

    def ask(self, records: list[Record]) -> list[Ticket]:
        """Ask for the bytes of remote records."""
        tickets = [Ticket(record, self) for record in records]
        self._loop.call_soon_threadsafe(self._queue, tickets)
        return tickets

    def close(self) -> None:
        """End all that is in flight, and begin nothing more."""
        self._closed = True
        self._loop.call_soon_threadsafe(self._cancel)

    def _queue(self, tickets: list[Ticket]) -> None:
        self._waiting.extend(tickets)
        self._begin()

    def _begin(self) -> None:
        while self._waiting and len(self._tasks) < self._most and not self._closed:
            member = self._waiting[0].record.member
            mean = self._arrived_bytes // self._arrived if self._arrived else _GUESS
            size = member.size if member is not None else mean
            total = self._held + self._expected
            if total and total + size > self._most_bytes:
                return  # goes on when there is room
            self._expected += size
            task = self._loop.create_task(self._fetch(self._waiting.popleft(), size))
            self._tasks.add(task)

    async def _fetch(self, ticket: Ticket, expected: int) -> None:
        content, error = None, None
        try:
            record = ticket.record
            part = None if record.member is None else (record.member.offset, record.member.size)
            content = await storage.fetch_bytes(record.uri, part=part, limits=self._limits)
        except Exception as failure:  # handed to whoever takes the ticket
            error = failure
        finally:
            self._expected -= expected
            task = asyncio.current_task()
            assert task is not None
            self._tasks.discard(task)
        if content is not None:
            self._held += len(content)
            self._arrived += 1
            self._arrived_bytes += len(content)
        ticket._answer(content, error)
        self._begin()

    def _freed(self, size: int) -> None:
        """From any thread."""

        def free() -> None:
            self._held -= size
            self._begin()

        self._loop.call_soon_threadsafe(free)

    def _cancel(self) -> None:
        self._waiting.clear()
        for task in self._tasks:
            task.cancel()
