"""Handling of SIGINT, SIGTERM and SIGHUP: deferred in training, immediate elsewhere."""

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
_deferred: int | None = None


def handle() -> None:
    """End this program on Ctrl-C without a traceback.

    During an import the process exits at once, since imported code may replace or suppress the
    exception. Elsewhere it is a KeyboardInterrupt.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _press)


def was_pressed() -> bool:
    """True if Ctrl-C was pressed since `handle`, even where its exception was suppressed."""
    return _pressed


def _press(number: int, frame: FrameType | None) -> None:
    global _pressed
    if _pressed or _importing(frame):
        if "LOCAL_RANK" not in os.environ:  # the launcher reports for its workers
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


def take_deferred() -> int | None:
    """Number of a deferred signal that came since the last call; None without one.

    A signal that comes in the last step of a training does not stop it, but what would follow.
    """
    global _deferred
    number, _deferred = _deferred, None
    return number


class StopRequest:
    """Request to stop; `signal` is its number, None without a request."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def deferred() -> Iterator[StopRequest]:
    """Deferred handling of SIGINT, SIGTERM and SIGHUP; a later Ctrl-C interrupts at once.

    SIGHUP comes from a terminal or ssh session that closes. Where it is ignored, as under nohup,
    it stays ignored. Outside the main thread, where Python delivers no signals, nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    received = 0.0

    def handle_signal(number: int, frame: FrameType | None) -> None:
        global _deferred
        nonlocal received
        now = time.monotonic()
        # torchrun repeats the signal that the terminal sent to all processes already.
        if received and number == signal.SIGINT and now - received > _REPEAT_SECONDS:
            raise KeyboardInterrupt
        received = received or now
        _deferred = request.signal = request.signal or number

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle_signal) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
