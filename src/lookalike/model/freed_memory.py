"""Memory that a process on the CPU frees stays with it.

glibc returns blocks above 32 MB to the kernel as soon as they are freed, and smaller ones when
enough of them lie at the end of the heap. The layers of the next batch need the same sizes again,
and each page costs a fault.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

# From glibc's malloc.h; part of its ABI.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT = 2**30  # bytes of a block; larger ones are returned when they are freed
_LEAST_RETURNED = 2**18  # bytes of a block
_NEVER = 2**31 - 1

_CHOSEN_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


_returning = False


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, from the first call on; True if it does.

    Nothing is changed for a C library other than glibc, where the environment sets its malloc, or
    after `return_freed_memory`.
    """
    return not _returning and _keep()


def return_freed_memory() -> None:
    """Let this process return what it frees, whatever asks to keep it afterwards.

    For a network whose weights are gathered and freed block by block: they leave gaps of so many
    sizes that a process that keeps them grows with each step.
    """
    global _returning
    _returning = True
    if (libc := _glibc()) is not None:
        libc.mallopt(_MMAP_THRESHOLD, _LEAST_RETURNED)
        libc.malloc_trim(0)


@cache
def _keep() -> bool:
    libc = _glibc()
    if libc is None:
        return False
    kept = libc.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT) and libc.mallopt(_TRIM_THRESHOLD, _NEVER)
    return bool(kept)


def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc, and if its user has not chosen how it allocates."""
    if os.environ.keys() & set(_CHOSEN_BY_USER):
        return None
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  # only glibc has it
    except (OSError, AttributeError, TypeError):  # TypeError: Windows
        return None
    return libc
