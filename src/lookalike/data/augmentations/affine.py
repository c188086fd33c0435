"""Moving, shearing and turning a picture, as torchvision.transforms.v2.functional does.

Every pixel is the nearest one of the source, or `fill` where that lies outside: torchvision's
interpolation of RandAugment, TrivialAugmentWide and rotation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Matrix = tuple[float, float, float, float, float, float]
"""a, b, c, d, e, f: the pixel at (x, y) comes from (a x + b y + c, d x + e y + f); in pixels from
the centre of the picture, x to the right and y down."""


def translate(image: Tensor, right: int, down: int, fill: int) -> Tensor:
    """The picture moved by whole pixels."""
    return affine(image, (1, 0, -right, 0, 1, -down), fill)


def shear_x(image: Tensor, slope: float, fill: int) -> Tensor:
    """Rows moved to the left by `slope` times their distance from the upper edge."""
    return affine(image, (1, slope, slope * image.shape[1] / 2, 0, 1, 0), fill)


def shear_y(image: Tensor, slope: float, fill: int) -> Tensor:
    """Columns moved up by `slope` times their distance from the left edge."""
    return affine(image, (1, 0, 0, slope, 1, slope * image.shape[2] / 2), fill)


def rotate(image: Tensor, degrees: float, fill: int) -> Tensor:
    """The picture turned about its centre, counter-clockwise."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return affine(image, (cos, -sin, 0, sin, cos, 0), fill)


def affine(image: Tensor, matrix: Matrix, fill: int) -> Tensor:
    """Every pixel fetched from where `matrix` says; (3, H, W) uint8."""
    a, b, c, d, e, f = matrix
    _, height, width = image.shape
    x = torch.arange(width, dtype=torch.float32) - (width - 1) / 2  # (W,)
    y = torch.arange(height, dtype=torch.float32)[:, None] - (height - 1) / 2  # (H, 1)
    source_x = (a * x + (b * y + (c + (width - 1) / 2))).round_().to(torch.int32)  # (H, W)
    source_y = (d * x + (e * y + (f + (height - 1) / 2))).round_().to(torch.int32)
    inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    # One more pixel, of the colour to fill with, is what lies outside.
    place = torch.where(inside, source_y.mul_(width).add_(source_x), height * width)
    pixels = image.permute(1, 2, 0).reshape(-1, 3)
    pixels = torch.cat([pixels, torch.full((1, 3), fill, dtype=torch.uint8)])
    return pixels.index_select(0, place.flatten()).view(height, width, 3).permute(2, 0, 1)
