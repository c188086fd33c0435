"""Antialiased resizing of one uint8 picture, on torch's vectorised uint8 path."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def resize(pixels: np.ndarray, height: int, width: int, interpolation: str) -> Tensor:
    """`pixels` (H, W, 3) uint8, which may be a view, as (3, height, width) uint8.

    Antialiased, as PIL and torchvision do it: to one grey level of theirs.

    Returns:
        A tensor whose memory is (height, width, 3), as a slot of a channels-last batch is.
    """
    # The leading dimension is added by torch and before the permutation: only with the stride that
    # it has then, a cropped view too counts as channels last, and takes the fast path uncopied.
    images = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)  # (1, 3, H, W)
    if pixels.shape[:2] == (height, width):
        return images[0]
    return F.interpolate(images, size=(height, width), mode=interpolation, antialias=True)[0]
