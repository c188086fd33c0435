"""One writer at a time, known to the kernel: a writer that is killed lets go."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lookalike.errors import StorageError

# A process that was just killed may take a moment to let go.
_SECONDS = 10.0


@contextmanager
def locked(file: Path, busy: str, seconds: float | None = None) -> Iterator[None]:
    """Nobody else holds the lock `file` inside the block; the file is made and stays.

    The holder may remove it before the end of the block.

    Args:
        file: the lock; its folder must be there.
        busy: the message when somebody else holds it.
        seconds: how long to wait for others; ten by default.

    Raises:
        StorageError: another process held it all the time, or the file cannot be made.
    """
    deadline = time.monotonic() + (_SECONDS if seconds is None else seconds)
    while (stream := _taken(file)) is None:
        if time.monotonic() > deadline:
            raise StorageError(busy)
        time.sleep(0.05)
    with stream:
        yield


def _taken(file: Path) -> IO[str] | None:
    """The lock, held until it is closed; None while somebody else has it."""
    try:
        stream = file.open("a")
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise StorageError(f"{file}: cannot be made: {reason}") from None
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its last holder may have removed it: then this is a lock on nothing.
        if os.fstat(stream.fileno()).st_ino == os.stat(file).st_ino:
            return stream
    except (BlockingIOError, FileNotFoundError):
        pass  # held, or gone: asked for again
    stream.close()
    return None
