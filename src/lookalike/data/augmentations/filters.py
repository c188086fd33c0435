"""Changes that look at the neighbours of a pixel: blur and sharpness.

Sums of shifted pictures, each a whole operation of its own, so that the result is the same for
any number of threads; as torchvision.transforms.v2.functional defines them for uint8 images.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_NEGLIGIBLE = 1e-7  # a weight that no uint8 level shows


def gaussian_blur(image: Tensor, kernel_size: int, sigma: float) -> Tensor:
    """A Gaussian of standard deviation `sigma` pixels, reflected at the borders.

    Args:
        image: (3, H, W) uint8.
        kernel_size: odd; weights further than (kernel_size - 1) / 2 pixels away are 0.
        sigma: above 0.
    """
    reach = kernel_size // 2
    weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(reach + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    weights = [w / total for w in weights if w / total > _NEGLIGIBLE]
    reach = len(weights) - 1
    planes = image.to(torch.float32, memory_format=torch.contiguous_format)
    if reach == 0:
        return image
    padded = F.pad(planes[None], (reach,) * 4, mode="reflect")[0]
    for dim in (1, 2):
        length = padded.shape[dim] - 2 * reach
        summed = padded.narrow(dim, reach, length) * weights[0]
        for i in range(1, reach + 1):
            pair = padded.narrow(dim, reach - i, length) + padded.narrow(dim, reach + i, length)
            summed.add_(pair, alpha=weights[i])
        padded = summed
    return padded.round_().to(torch.uint8)


def adjust_sharpness(image: Tensor, factor: float) -> Tensor:
    """Each pixel x becomes x + (1 - `factor`) (s - x), with s a mean of 3 x 3 pixels.

    The mean counts the middle five times.
    The outermost pixels have no full neighbourhood and stay.
    """
    _, height, width = image.shape
    if height <= 2 or width <= 2:
        return image
    planes = image.to(torch.int16, memory_format=torch.contiguous_format)
    rows = planes[:, :-2] + planes[:, 1:-1] + planes[:, 2:]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    inner = planes[:, 1:-1, 1:-1]
    smooth = sums.add_(inner, alpha=4).to(torch.float32).mul_(1 / 13).round_()
    # In this order, a pixel that is its own neighbourhood stays exactly what it is.
    sharper = smooth.sub_(inner).mul_(1 - factor).add_(inner).clamp_(0, 255)
    found = image.to(torch.uint8, memory_format=torch.contiguous_format, copy=True)
    found[:, 1:-1, 1:-1] = sharper.to(torch.uint8)
    return found
