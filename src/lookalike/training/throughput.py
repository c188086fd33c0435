"""Throughput of training, and the part of the time spent waiting for images."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class ThroughputMeter:
    """Rate and waiting time since the last lap, without pauses."""

    def __init__(self) -> None:
        self._images, self._seconds, self._waited = 0, 0.0, 0.0
        self._since = time.monotonic()
        self._last_rate = self._last_waiting = 0.0

    def start(self) -> None:
        """Begin the first lap."""
        self._since = time.monotonic()

    def add(self, images: int) -> None:
        """Count images trained on since the last call."""
        now = time.monotonic()
        self._images += images
        self._seconds += now - self._since
        self._since = now

    def rate(self) -> float:
        """Images a second in this lap, or in the last one if this one just began."""
        return self._images / self._seconds if self._images else self._last_rate

    def waiting(self, waited: float) -> float:
        """Part of this lap spent waiting, or of the last one if this one just began.

        Args:
            waited: sum of all waits so far, in seconds.
        """
        if not self._images:
            return self._last_waiting
        return min(max((waited - self._waited) / self._seconds, 0.0), 1.0)

    def lap(self, waited: float) -> tuple[float, float]:
        """End a lap: rate, and part of the time spent waiting; `waited` as in `waiting`."""
        self._last_rate, self._last_waiting = self.rate(), self.waiting(waited)
        self._images, self._seconds, self._waited = 0, 0.0, waited
        return self._last_rate, self._last_waiting

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the block from timing."""
        began = time.monotonic()
        yield
        self._since += time.monotonic() - began
