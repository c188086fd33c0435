"""Remote images fetched before their turn, many at a time.

By Little's law, 3,000 images a second that take 35 ms each are 105 requests in flight, however
few threads decode. So requests wait in one event loop, and only what they bring is work for
threads.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from lookalike import storage
from lookalike.data.record import Record
from lookalike.storage.event_loop import running_loop

MOST_BYTES = 256 * 2**20
"""Of images that are requested and not being decoded yet, for each worker."""

_GUESS = 256 * 2**10  # bytes of an image, before the first has arrived


class PendingBytes(Future[bytes]):
    """The bytes of one record, requested."""

    def __init__(self, record: Record, free: Callable[[int], None]) -> None:
        super().__init__()
        self.record = record
        self._free = free
        self._released = False

    def take(self) -> bytes:
        """The bytes, which count as freed memory from now on.

        Raises:
            StorageError: see `storage.read_bytes`.
        """
        content = self.result()
        self.release()
        return content

    def release(self) -> None:
        """Count what has arrived as freed memory, taken or not."""
        if not self._released and self.exception() is None:
            self._free(len(self.result()))
        self._released = True


class ReadAhead:
    """Requests in flight, limited in number and bytes, started in order.

    Of `most_bytes`, held or in flight, a larger image is requested only when nothing else is.
    """

    # All but `fetch`, `close` and `_free` runs in the event loop.

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
        self._waiting: deque[PendingBytes] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight = 0  # bytes, as expected
        self._held = 0  # bytes
        self._arrived = self._arrived_bytes = 0
        self._closed = False

    def fetch(self, record: Record) -> PendingBytes:
        """Request the bytes of a remote record."""
        pending = PendingBytes(record, self._free)
        self._loop.call_soon_threadsafe(self._enqueue, pending)
        return pending

    def close(self) -> None:
        """Cancel all that is in flight, and start nothing more."""
        self._closed = True
        self._loop.call_soon_threadsafe(self._cancel)

    def _enqueue(self, pending: PendingBytes) -> None:
        self._waiting.append(pending)
        self._start()

    def _start(self) -> None:
        while self._waiting and len(self._tasks) < self._most and not self._closed:
            member = self._waiting[0].record.member
            mean = self._arrived_bytes // self._arrived if self._arrived else _GUESS
            size = member.size if member is not None else mean
            total = self._held + self._in_flight
            if total and total + size > self._most_bytes:
                return  # called again when there is room
            self._in_flight += size
            task = self._loop.create_task(self._fetch(self._waiting.popleft(), size))
            self._tasks.add(task)

    async def _fetch(self, pending: PendingBytes, expected: int) -> None:
        content: bytes | None = None
        error: Exception | None = None
        try:
            record = pending.record
            content = await storage.fetch_bytes(
                record.uri, part=record.byte_range, limits=self._limits
            )
        except Exception as failure:
            error = failure
        finally:
            self._in_flight -= expected
            task = asyncio.current_task()
            assert task is not None
            self._tasks.discard(task)
        if content is None:
            pending.set_exception(error)
        else:
            self._held += len(content)
            self._arrived += 1
            self._arrived_bytes += len(content)
            pending.set_result(content)
        self._start()

    def _free(self, size: int) -> None:
        def free() -> None:
            self._held -= size
            self._start()

        self._loop.call_soon_threadsafe(free)

    def _cancel(self) -> None:
        self._waiting.clear()
        for task in self._tasks:
            task.cancel()
