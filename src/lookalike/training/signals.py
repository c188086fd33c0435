"""Signals that ask to stop: taken note of in training, obeyed at once elsewhere."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_REPEAT_SECONDS = 3.0


_ENTRY = "<frozen importlib"
_pressed = False


def handle() -> None:
    """Let Ctrl-C end this program without a traceback, whatever it is doing.

    In the midst of an import the process ends on the spot: what is being imported may turn the
    exception into another one, or into none. Elsewhere it is a KeyboardInterrupt.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _press)


def was_pressed() -> bool:
    """Whether Ctrl-C came since `handle`, whatever became of its exception."""
    return _pressed


def _press(number: int, frame: FrameType | None) -> None:
    global _pressed
    if _pressed or _importing(frame):
        if "LOCAL_RANK" not in os.environ:  # of workers the launcher speaks
            os.write(2, b"stopped\n")
        os._exit(128 + number)
    _pressed = True
    raise KeyboardInterrupt


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith(_ENTRY):
            return True
        frame = frame.f_back
    return False


class StopRequest:
    """Whether somebody asked to stop, and by which signal.

    Attributes:
        signal: the signal's number, None while nobody asked.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def deferred() -> Iterator[StopRequest]:
    """Inside the block, Ctrl-C, SIGTERM and SIGHUP only note the wish; a later Ctrl-C is obeyed.

    SIGHUP is what a terminal or an ssh session sends when it closes. Where it is ignored, as
    under nohup, it stays so.

    Outside the main thread, where Python delivers no signals, the wish never comes true.
    """
    wish = StopRequest()
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

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, hear) for number in numbers}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
