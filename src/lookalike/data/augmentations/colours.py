"""Changes of colour, as torchvision.transforms.v2.functional defines them for uint8 images.

All take and give (3, H, W) uint8, in any memory order. Where each value of a pixel goes to one
other value, the 256 of them are computed and looked up. The GIL is released throughout.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_LUMA = (0.2989, 0.587, 0.114)  # torchvision's: ITU-R BT.601, the first rounded
_LEVELS = torch.arange(256, dtype=torch.float32)


def adjust_brightness(image: Tensor, factor: float) -> Tensor:
    """`factor` x, cut off at 255."""
    return _looked_up(image, _LEVELS * factor)


def adjust_contrast(image: Tensor, factor: float) -> Tensor:
    """`factor` x + (1 - `factor`) m, with m the mean luma of the picture."""
    luma = _luma(_planes(image)).to(torch.uint8)
    # The mean is taken over integers: a sum of floats would depend on the number of threads.
    mean = int(luma.sum(dtype=torch.int64)) / luma.numel()
    return _looked_up(image, _LEVELS * factor + (1 - factor) * mean)


def adjust_saturation(image: Tensor, factor: float) -> Tensor:
    """`factor` x + (1 - `factor`) l, with l the luma of each pixel."""
    planes = _planes(image)
    luma = _luma(planes)
    return planes.mul_(factor).add_(luma, alpha=1 - factor).clamp_(0, 255).to(torch.uint8)


def adjust_hue(image: Tensor, turn: float) -> Tensor:
    """The hue turned by `turn` of the circle, -0.5 to 0.5; value and saturation stay.

    With v the largest and w the largest minus the smallest of r, g, b, and h the hue in sixths of
    the circle, a channel is v - w * min(k, 4 - k, 1) cut off at 0, with k = (n + h) mod 6 and
    n = 5, 3, 1 for r, g, b: the HSV colour model without branches.
    """
    planes = _planes(image)
    red, green, blue = planes
    value = planes.amax(dim=0)
    width = value - planes.amin(dim=0)
    safe = width.clamp(min=1)
    third = torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4)
    hue = torch.where(value == red, (green - blue) / safe, third)
    hue.add_(6 * turn)
    # A hair more than the value, so that a whole number that rounding made smaller is not cut
    # down to the one below: torchvision's conversion to uint8.
    stretch = 255.999 / 255
    for plane, offset in zip(planes, (5, 3, 1), strict=True):
        place = (hue + offset).remainder_(6)
        share = torch.minimum(place, 4 - place).clamp_(0, 1)
        torch.sub(value, share.mul_(width), out=plane)
        plane.mul_(stretch)
    return planes.to(torch.uint8)


def grayscale(image: Tensor) -> Tensor:
    """The luma, in all three channels."""
    return _luma(_planes(image)).to(torch.uint8).expand(3, -1, -1)


def auto_contrast(image: Tensor) -> Tensor:
    """Each channel stretched so that its least value is 0 and its greatest 255."""
    planes = image.contiguous()
    low = planes.amin(dim=(1, 2)).float()
    high = planes.amax(dim=(1, 2)).float()
    flat = high == low
    scale = torch.where(flat, 1.0, (high - low) * (1 / 255))
    low = torch.where(flat, 0.0, low)
    return _channels_looked_up(planes, (_LEVELS - low[:, None]) / scale[:, None])


def equalize(image: Tensor) -> Tensor:
    """Each channel's values spread so that all are about equally frequent; PIL's rule."""
    planes = image.contiguous()
    tables = torch.stack([_equalizing(torch.bincount(c.flatten(), minlength=256)) for c in planes])
    return _channels_looked_up(planes, tables)


def posterize(image: Tensor, bits: int) -> Tensor:
    """The `bits` highest bits of each value."""
    return image & ((0xFF << (8 - bits)) & 0xFF)


def solarize(image: Tensor, threshold: float) -> Tensor:
    """Values from `threshold` on, 0 to 255, inverted."""
    return _looked_up(image, torch.where(threshold <= _LEVELS, 255 - _LEVELS, _LEVELS))


def invert(image: Tensor) -> Tensor:
    """255 - x."""
    return image.bitwise_not()


def _planes(image: Tensor) -> Tensor:
    """(3, H, W) float32, channel by channel in memory."""
    return image.to(torch.float32, memory_format=torch.contiguous_format, copy=True)


def _luma(planes: Tensor) -> Tensor:
    """(H, W) float32, whole numbers."""
    red, green, blue = planes
    luma = red * _LUMA[0]
    return luma.add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2]).floor_()


def _equalizing(histogram: Tensor) -> Tensor:
    """The table (256,) float32 that PIL makes of a histogram (256,)."""
    below = histogram.cumsum(0)
    last = int(histogram.nonzero()[-1])
    step = int(below[-1] - histogram[last]) // 255
    if step == 0:
        return _LEVELS
    table = ((below + step // 2) // step).clamp_(0, 255).float()
    return torch.cat([torch.zeros(1), table[:-1]])


def _bytes(table: Tensor) -> np.ndarray:
    return table.clamp(0, 255).to(torch.uint8).numpy()


def _looked_up(image: Tensor, table: Tensor) -> Tensor:
    """`table` (256,) of each value; what lies outside 0 to 255 is cut off, fractions too."""
    pixels = image.permute(1, 2, 0).numpy()
    return torch.from_numpy(np.take(_bytes(table), pixels)).permute(2, 0, 1)


def _channels_looked_up(planes: Tensor, tables: Tensor) -> Tensor:
    """`tables` (3, 256) of the values of each channel."""
    found = np.empty(tuple(planes.shape), np.uint8)
    for channel, table in enumerate(_bytes(tables)):
        np.take(table, planes[channel].numpy(), out=found[channel], mode="clip")
    return torch.from_numpy(found)
