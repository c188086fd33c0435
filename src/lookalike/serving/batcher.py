"""Batches of images from many requests: decoded in threads, computed in one.

While a batch is computed, the images of other requests are decoded and wait; together they are the
next batch, with those that are still being decoded: a batch costs less than its images one by one.
An image alone is computed at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lookalike.errors import LookalikeError, check_integer
from lookalike.serving.problems import Problem
from lookalike.serving.served_network import ServedNetwork

HELD = 512 * 2**20  # bytes of decoded images that wait; one more may be decoded by each thread
_SLOWEST = 60.0  # seconds, of `Retry-After`
_RECENT = 0.9  # weight of the past in the mean rate
PATIENCE = 0.5  # of the seconds of the last batch: the longest wait for images in decoding


@dataclass
class _Waiting:
    prepared: np.ndarray | Tensor
    vector: asyncio.Future[np.ndarray]


class Batcher:
    """Vectors of images of concurrent requests.

    Args:
        network: decodes and computes.
        queue: images of all requests at a time; more are refused.
        observe: called with the size of each batch.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(
        self,
        network: ServedNetwork,
        *,
        threads: int,
        queue: int,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        check_integer("threads", threads, 1)
        check_integer("queue", queue, 1)
        self.network, self.queue = network, queue
        self.pending = 0  # images that were accepted and have no vector yet
        self._observe = observe
        self._decoding = ThreadPoolExecutor(threads, "decode")
        self._computing = ThreadPoolExecutor(1, "compute")
        self._decoders = asyncio.Semaphore(threads)
        self._waiting: deque[_Waiting] = deque()
        self._coming = 0  # images that are to be decoded
        self._held = 0
        self._changed = asyncio.Condition()
        self._rate = 0.0  # images a second
        self._seconds = 0.0  # of the last batch
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End; requests must have been finished before."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._decoding.shutdown(cancel_futures=True)
        self._computing.shutdown()

    async def vectors(self, contents: Sequence[bytes]) -> np.ndarray:
        """Unit vectors (N, D) float32 of N >= 1 encoded images.

        Raises:
            Problem: the queue is full.
            DataError: an image cannot be read; names it by its number.
            ModelError: the model gives none for an image.
        """
        count = len(contents)
        if self.pending + count > self.queue:
            wait = self.pending / self._rate if self._rate else 1.0
            raise Problem(
                429,
                f"{self.pending:,} images are waiting, of at most {self.queue:,}; try again later",
                retry_after=min(wait, _SLOWEST),
            )
        self.pending += count
        tasks = [asyncio.create_task(self._vector(at, one)) for at, one in enumerate(contents)]
        try:
            return np.stack(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.pending -= count

    async def _vector(self, number: int, content: bytes) -> np.ndarray:
        try:
            waiting = await self._waiting_for(content)
            return await waiting.vector
        except LookalikeError as error:
            raise type(error)(f"image {number}: {error}") from None

    async def _waiting_for(self, content: bytes) -> _Waiting:
        """Decode an image and let it wait for its batch."""
        loop = asyncio.get_running_loop()
        self._coming += 1
        try:
            async with self._decoders:
                async with self._changed:
                    await self._changed.wait_for(lambda: self._held < HELD)
                prepared = await loop.run_in_executor(self._decoding, self.network.prepare, content)
            waiting = _Waiting(prepared, loop.create_future())
            self._held += prepared.nbytes
            self._waiting.append(waiting)
            return waiting
        finally:
            self._coming -= 1
            async with self._changed:
                self._changed.notify_all()

    def _is_due(self) -> bool:
        """True if a batch need not wait for more images."""
        enough = self.network.waits_for * (self._coming + len(self._waiting))
        return len(self._waiting) >= min(enough, self.network.batch_size)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._waiting)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PATIENCE * self._seconds):
                        await self._changed.wait_for(self._is_due)
                found = [
                    self._waiting.popleft()
                    for _ in range(min(len(self._waiting), self.network.batch_size))
                ]
            batch = [one for one in found if not one.vector.done()]  # not given up meanwhile
            begun = time.monotonic()
            try:
                if batch:
                    images = [one.prepared for one in batch]
                    vectors = await loop.run_in_executor(
                        self._computing, self.network.compute, images
                    )
                    _deliver(batch, vectors)
                    self._observe(len(batch))
                    self._seconds = max(time.monotonic() - begun, 1e-6)
                    rate = len(batch) / self._seconds
                    self._rate = _RECENT * (self._rate or rate) + (1 - _RECENT) * rate
            except Exception as error:  # of this batch; the next one is computed all the same
                for one in batch:
                    if not one.vector.done():
                        one.vector.set_exception(error)
            finally:
                async with self._changed:
                    self._held -= sum(one.prepared.nbytes for one in found)
                    self._changed.notify_all()


def _deliver(batch: Sequence[_Waiting], vectors: Sequence[np.ndarray | LookalikeError]) -> None:
    for one, vector in zip(batch, vectors, strict=True):
        if one.vector.done():
            continue
        if isinstance(vector, LookalikeError):
            one.vector.set_exception(vector)
        else:
            one.vector.set_result(vector)
