"""Memory that the process has freed stays with it, so that it is not fetched anew every step.

glibc gives blocks above 32 MB back to the kernel as soon as they are freed, and smaller ones when
enough of them lie at the end of the heap. The next step asks for the same sizes again and pays for
every page: the kernel must find it, clear it and map it.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# From glibc's malloc.h. They are part of its ABI.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4

_NEVER = -1

# What glibc arrives at by itself when a process has freed a block of 32 MB, and its default.
_LARGEST_MMAP_THRESHOLD = 32 * 2**20
_DEFAULT_MMAP_MAX = 65536

_lock = threading.Lock()
_keepers = 0  # how many are within

# How people set glibc's malloc themselves.
_CHOSEN = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[bool]:
    """Within, a process that computes on the CPU keeps what it frees, and uses it again.

    What lies free at the end goes back to the system. Nothing is changed for another device than
    the CPU, for a C library other than glibc, and where the environment sets glibc's malloc.

    Args:
        device: where the process computes.

    Yields:
        Whether it is so.
    """
    global _keepers
    libc = _glibc() if device.type == "cpu" and not os.environ.keys() & set(_CHOSEN) else None
    if libc is None:
        yield False
        return
    with _lock:
        _keepers += 1
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield True
    finally:
        with _lock:
            _keepers -= 1
            if _keepers == 0:
                libc.mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
                libc.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
                libc.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_MMAP_THRESHOLD)
                libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
        # Only glibc has this one, and it has it on Linux alone.
        library.gnu_get_libc_version  # noqa: B018
        return library
    except (OSError, AttributeError, TypeError):  # TypeError: Windows
        return None
