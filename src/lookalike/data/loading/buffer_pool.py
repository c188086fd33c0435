"""Memory of batches that is used again as soon as nobody holds it.

A batch is tens of megabytes. Fresh memory of that size comes from the kernel page by page, each
cleared first: that takes as long as to normalise the pictures.
"""

from __future__ import annotations

import math
import weakref
from collections import deque

import numpy as np
import torch
from torch import Tensor

_KEPT = 4
"""Free blocks that a pool keeps."""


class Blocks:
    """A pool of blocks of memory, for tensors of about one size.

    It may be used from several threads at a time.
    """

    def __init__(self) -> None:
        # The oldest falls out at the other end. Appending and popping need no lock, which a
        # finalizer that the garbage collector runs in the middle of our own code could not take.
        self._free: deque[np.ndarray] = deque(maxlen=_KEPT)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A contiguous tensor on the CPU, its contents undefined.

        Its memory comes back when the last tensor over it is gone, views and what autograd keeps
        among them.
        """
        size = math.prod(shape) * dtype.itemsize
        if size == 0:
            return torch.empty(shape, dtype=dtype)
        block = self._taken(size)
        # Tensors hold this array, and it alone: its end is the end of the last of them.
        handle = block[:size]
        weakref.finalize(handle, self._free.append, block).atexit = False
        return torch.from_numpy(handle).view(dtype).view(shape)

    def _taken(self, size: int) -> np.ndarray:
        """A free block of at least `size` bytes that is not far larger, or a new one."""
        for _ in range(len(self._free)):
            try:
                block = self._free.popleft()
            except IndexError:  # another thread has taken it
                break
            if size <= len(block) <= 2 * size:
                return block
            self._free.append(block)
        return np.empty(size, np.uint8)
