"""Locks on files that the kernel releases when their holder ends, however it ends."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lookalike.errors import LookalikeError, StorageError, reason_of

PATIENCE = 10.0
"""Seconds to wait for another holder: a process that was just killed takes a moment to end."""


@contextmanager
def locked(file: Path, busy: str, error: type[LookalikeError] = StorageError) -> Iterator[None]:
    """The lock `file`, held during the block; the file is made and stays.

    The holder may remove it before the end of the block.

    Raises:
        LookalikeError: another process held it all the time, an `error` with the message `busy`; or
            the file cannot be made, as its folder must be there.
    """
    deadline = time.monotonic() + PATIENCE
    while (stream := _acquired(file)) is None:
        if time.monotonic() > deadline:
            raise error(busy)
        time.sleep(0.05)
    with stream:
        yield


def _acquired(file: Path) -> IO[str] | None:
    """The lock, held until it is closed; None while another process has it."""
    try:
        stream = file.open("a")
    except OSError as error:
        raise StorageError(f"{file}: cannot be made: {reason_of(error)}") from None
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its last holder may have removed it: then this is a lock on nothing.
        if os.fstat(stream.fileno()).st_ino == os.stat(file).st_ino:
            return stream
    except (BlockingIOError, FileNotFoundError):
        pass  # held, or gone: asked for again
    stream.close()
    return None


def is_locked(stream: IO[bytes]) -> bool:
    """True while another open file holds the lock of this one."""
    try:
        fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def is_held(file: Path) -> bool:
    """True while a process holds the lock `file`; false without the file."""
    if file.is_symlink() or not file.is_file():
        return False
    try:
        with file.open("rb") as stream:
            return is_locked(stream)
    except OSError:
        return False
