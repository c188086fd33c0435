"""Batches of images, and the memory they are made in, reused as soon as no tensor refers to it.

A batch is tens of megabytes. Fresh memory of that size comes from the kernel page by page, each
cleared first: that takes as long as to normalize the images.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lookalike.data.image_size import ImageSize, height_width

KEPT = 4
"""Free buffers that a pool keeps."""


class BufferPool:
    """Buffers for tensors of about one size; safe in threads."""

    def __init__(self) -> None:
        # The oldest falls out at the other end. Appending and popping need no lock, which a
        # finalizer that the garbage collector runs in the middle of our own code could not take.
        self._free: deque[np.ndarray] = deque(maxlen=KEPT)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A contiguous tensor on the CPU, its contents undefined.

        Its memory returns to the pool with the last tensor over it, views and tensors saved by
        autograd included.
        """
        size = math.prod(shape) * dtype.itemsize
        if size == 0:
            return torch.empty(shape, dtype=dtype)
        buffer = self._taken(size)
        # Tensors hold this array, and it alone: its end is the end of the last of them.
        handle = buffer[:size]
        weakref.finalize(handle, self._free.append, buffer).atexit = False
        return torch.from_numpy(handle).view(dtype).view(shape)

    def __len__(self) -> int:
        """The number of free buffers."""
        return len(self._free)

    def _taken(self, size: int) -> np.ndarray:
        """A free buffer of `size` to 2 `size` bytes, or a new one."""
        for _ in range(len(self._free)):
            try:
                buffer = self._free.popleft()
            except IndexError:  # another thread has taken it
                break
            if size <= len(buffer) <= 2 * size:
                return buffer
            self._free.append(buffer)
        return np.empty(size, np.uint8)


_POOL = BufferPool()


@dataclass(frozen=True)
class Batch:
    """b images.

    Attributes:
        images: (b, 3, S, S) uint8, channels last; pinned where it is to go to a CUDA device. Or
            the features of b images, (b, K, C) float32 (`FeatureParts`).
        classes: (b,) int64; (b, L), with -1 behind the last, where images may have several.
        rows: (b,) int64, indices of the records that these images are.
        weights: (b,) float32, of the images in the loss; None for all alike.
    """

    images: Tensor
    classes: Tensor
    rows: Tensor
    weights: Tensor | None = None


def empty_images(count: int, size: ImageSize, device: torch.device) -> Tensor:
    """(count, 3, height, width) uint8, channels last, for images on their way to `device`."""
    shape = (count, *height_width(size), 3)
    # A tensor born in the consumer's inference mode could not be filled by other threads.
    with torch.inference_mode(False):
        if device.type == "cuda":  # torch itself keeps pinned memory
            images = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        else:
            images = _POOL.empty(shape, torch.uint8)
        return images.permute(0, 3, 1, 2)
