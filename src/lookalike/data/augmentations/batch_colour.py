"""Brightness, contrast, saturation and loss of colour, of all pictures of a batch at once.

Each picture has factors of its own, drawn with its crop; they are applied where the batch is
used, on the device. Every operation rounds by itself and the means are of integers, so that
nothing depends on what else is in the batch, nor should it on the device.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor

Factors = tuple[float, float, float]
"""Brightness, contrast, saturation; 1 leaves a picture as it is, saturation 0 makes it grey."""

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as PIL and torchvision

# On a CPU so many pictures at a time, which stay in the cache from operation to operation.
_FEW = 1


def draw_factors(strength: float, grayscale: float, rng: random.Random) -> Factors:
    """The factors of one picture.

    Args:
        strength: each factor is drawn from [max(0, 1 - strength), 1 + strength].
        grayscale: probability of saturation 0.
        rng: the source of chance.
    """
    bounds = max(0.0, 1 - strength), 1 + strength
    brightness, contrast, saturation = (rng.uniform(*bounds) for _ in range(3))
    if rng.random() < grayscale:
        saturation = 0.0
    return brightness, contrast, saturation


def recolour(images: Tensor, factors: Tensor) -> Tensor:
    """Brightness b, contrast c and saturation s of each picture as one affine map.

    In turn, with L the luma and M its mean over the picture: x -> b x;  x -> c x + (1 - c) M;
    x -> s x + (1 - s) L(x). L is linear and L(grey) = grey, so together they are
    b c s x + b c (1 - s) L(x) + b (1 - c) M, rounded and clamped once, at the end.

    Args:
        images: (B, 3, H, W) uint8, on any device.
        factors: (B, 3) float64, on the same device; see `Factors`.

    Returns:
        (B, 3, H, W) uint8, same device and layout.
    """
    if images.device.type != "cpu" or len(images) <= _FEW:
        return _recoloured(images, factors)
    changed = torch.empty_like(images)
    for source, part, target in zip(
        images.split(_FEW), factors.split(_FEW), changed.split(_FEW), strict=True
    ):
        target.copy_(_recoloured(source, part))
    return changed


def _recoloured(images: Tensor, factors: Tensor) -> Tensor:
    brightness, contrast, saturation = factors[:, :, None, None].unbind(1)  # (B, 1, 1) each
    sums = images.sum(dim=(2, 3), dtype=torch.int64)  # (B, 3)
    area = images.shape[2] * images.shape[3]
    means = sums.to(torch.float64) / area
    mean_luma = _luma(means)[:, None, None]  # (B, 1, 1)
    x = images.to(torch.float32)  # (B, 3, H, W)
    luma = _luma(x)  # (B, H, W)
    luma.mul_((brightness * contrast * (1 - saturation)).float())
    luma.add_((brightness * (1 - contrast) * mean_luma).float())
    x.mul_((brightness * contrast * saturation).float()[:, None]).add_(luma[:, None])
    return x.round_().clamp_(0, 255).to(torch.uint8)


def _luma(x: Tensor) -> Tensor:
    """(B, 3, ...) -> (B, ...)."""
    red, green, blue = (x[:, channel] * weight for channel, weight in enumerate(_LUMA))
    return red + green + blue
