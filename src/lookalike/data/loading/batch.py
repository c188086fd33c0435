"""Batches of images, and the memory they are made in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lookalike.data.image_size import ImageSize, height_width
from lookalike.data.loading.buffer_pool import BufferPool

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
