"""Ctrl-C and SIGTERM as a wish that the program grants when it is safe."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_REPEAT_SECONDS = 3.0


class Wish:
    """Whether somebody asked to stop, and by which signal.

    Attributes:
        signal: the signal's number, None while nobody asked.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def deferred() -> Iterator[Wish]:
    """Inside the block, Ctrl-C and SIGTERM only note the wish; a later Ctrl-C is obeyed at once.

    Outside the main thread, where Python delivers no signals, the wish never comes true.
    """
    wish = Wish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    heard = 0.0

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        now = time.monotonic()
        # torchrun repeats the signal that the terminal sent to all of us already.
        if heard and number == signal.SIGINT and now - heard > _REPEAT_SECONDS:
            raise KeyboardInterrupt
        heard = heard or now
        wish.signal = wish.signal or number

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
