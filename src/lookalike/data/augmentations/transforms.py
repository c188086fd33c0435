"""torchvision's transforms by name; their randomness comes from the `Random` that is passed in."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from lookalike.data.augmentations import operations
from lookalike.data.augmentations.augmentation import (
    Augmentation,
    number,
    option,
    probability,
    span,
    whole,
)
from lookalike.data.image_size import ImageSize, height_width, size_text
from lookalike.errors import ConfigError

_GREY_LEVEL = "a grey level, 0 to 255"
_STRENGTH = "a strength, at least 0"


@dataclass(frozen=True)
class ColorJitter(Augmentation):
    """Brightness, contrast, saturation and hue in a random order: ColorJitter.

    A strength s stands for a factor from [max(0, 1 - s), 1 + s], for the hue for a turn from
    [-s, s] of the circle. The defaults are those of MoCo v2 (arXiv 2003.04297).
    """

    brightness: float = number(0.4, _STRENGTH, 0)
    contrast: float = number(0.4, _STRENGTH, 0)
    saturation: float = number(0.4, _STRENGTH, 0)
    hue: float = number(0.1, "a part of the circle, 0 to 0.5", 0, 0.5)

    name = "color_jitter"

    def apply(self, image: Tensor, rng: Random) -> Tensor:
        for function, amount in self.draw(rng):
            image = function(image, amount)
        return image

    def draw(self, rng: Random) -> list[tuple[Any, float]]:
        """The operations in turn, and their factors."""
        changes: list[tuple[Any, float]] = [
            (function, rng.uniform(max(0.0, 1 - strength), 1 + strength))
            for function, strength in (
                (tv.adjust_brightness, self.brightness),
                (operations.adjust_contrast, self.contrast),
                (tv.adjust_saturation, self.saturation),
            )
            if strength
        ]
        if self.hue:
            changes.append((operations.adjust_hue, rng.uniform(-self.hue, self.hue)))
        rng.shuffle(changes)
        return changes


def _odd(value: Any) -> int:
    if type(value) is not int or value % 2 == 0 or not 1 <= value <= 255:
        raise ValueError("an odd number of pixels, 1 to 255")
    return value


@dataclass(frozen=True)
class GaussianBlur(Augmentation):
    """A blur of random width: GaussianBlur.

    Attributes:
        kernel_size: side of the square of weights, in pixels.
        sigma: smallest and largest standard deviation of the Gaussian, in pixels.
    """

    kernel_size: int = option(13, _odd)  # three of the largest sigma to each side
    sigma: tuple[float, float] = span((0.1, 2.0), "two lengths above 0, in order", 1e-3, 100)

    name = "gaussian_blur"

    def apply(self, image: Tensor, rng: Random) -> Tensor:
        return operations.gaussian_blur(image, self.kernel_size, rng.uniform(*self.sigma))

    def fitted(self, image_size: ImageSize, mean: tuple[float, float, float]) -> Self:
        """Refuse a square of weights that a reflection of the image cannot fill."""
        shorter = min(height_width(image_size))
        if self.kernel_size // 2 >= shorter:
            raise ConfigError(
                f"data.augment: {self.name}.kernel_size={self.kernel_size} is too large for "
                f"images of {size_text(image_size)} px; use at most {2 * shorter - 1}"
            )
        return self


@dataclass(frozen=True)
class Rotation(Augmentation):
    """A rotation by an angle from [-degrees, degrees]: RandomRotation.

    Attributes:
        degrees: the largest angle.
        fill: grey level of the corners that become free.
    """

    degrees: float = number(15.0, "an angle, 0 to 180 degrees", 0, 180)
    fill: int = whole(0, _GREY_LEVEL, 0, 255)

    name = "rotation"

    def apply(self, image: Tensor, rng: Random) -> Tensor:
        return operations.rotate(image, rng.uniform(-self.degrees, self.degrees), self.fill)


@dataclass(frozen=True)
class _OfHalf(Augmentation):
    """An augmentation of half of the images, by default."""

    p: float = probability(0.5)


def _colour(value: Any) -> str | tuple[int, int, int]:
    if value in ("mean", "random"):
        return str(value)
    levels = value if isinstance(value, (list, tuple)) else [value] * 3
    if len(levels) != 3 or not all(type(v) in (int, float) and 0 <= v <= 255 for v in levels):
        raise ValueError("mean, random, a grey level or [red, green, blue], each 0 to 255")
    red, green, blue = (round(level) for level in levels)
    return red, green, blue


@dataclass(frozen=True)
class RandomErasing(_OfHalf):
    """A rectangle painted over: RandomErasing (Zhong et al., arXiv 1708.04896).

    Attributes:
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest height / width.
        value: "mean" is the colour that normalization makes 0, as torchvision's 0 behind its
            Normalize; "random" gives every pixel levels of its own, 0 to 255, as in the paper; or
            a colour.
    """

    scale: tuple[float, float] = span((0.02, 0.33), "two shares of 1, in order", 0, 1)
    ratio: tuple[float, float] = span((0.3, 3.3), "two numbers above 0, in order", 1e-3, 1e3)
    value: str | tuple[int, int, int] = option("mean", _colour)

    name = "random_erasing"

    def apply(self, image: Tensor, rng: Random) -> Tensor:
        box = self.draw_box(image.shape[1], image.shape[2], rng)
        if box is None:
            return image
        top, left, height, width = box
        image = image.clone()  # it may be a view of what was decoded
        hole = image[:, top : top + height, left : left + width]
        if self.value == "random":
            noise = np.frombuffer(bytearray(rng.randbytes(3 * height * width)), np.uint8)
            hole.copy_(torch.from_numpy(noise).view(height, width, 3).permute(2, 0, 1))
        else:
            assert isinstance(self.value, tuple), "fitted() gives the mean"
            hole.copy_(torch.tensor(self.value, dtype=torch.uint8)[:, None, None])
        return image

    def draw_box(self, height: int, width: int, rng: Random) -> tuple[int, int, int, int] | None:
        """Top, left, height and width of the rectangle; None where ten tries found none.

        Area and ratio (on a log scale) are uniform; it is smaller than the picture.
        """
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(low, high))
            tall, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if tall < height and wide < width:
                top = int(rng.random() * (height - tall + 1))
                return top, int(rng.random() * (width - wide + 1)), tall, wide
        return None

    def fitted(self, image_size: ImageSize, mean: tuple[float, float, float]) -> Self:
        """With the colour that `value="mean"` stands for."""
        if self.value != "mean":
            return self
        red, green, blue = (round(255 * part) for part in mean)
        return replace(self, value=(red, green, blue))


class AutoContrast(_OfHalf):
    """Every channel stretched to the whole range: RandomAutocontrast."""

    name = "auto_contrast"

    def apply(self, image: Tensor, rng: Random) -> Tensor:
        return tv.autocontrast(image.contiguous())  # three times as fast as channels last


class Equalize(_OfHalf):
    """All values about equally frequent in every channel: RandomEqualize."""

    name = "equalize"

    def apply(self, image: Tensor, rng: Random) -> Tensor:
        return operations.equalize(image)


@dataclass(frozen=True)
class Grayscale(Augmentation):
    """Luma in all channels: RandomGrayscale."""

    p: float = probability(0.1)
    name = "grayscale"

    def apply(self, image: Tensor, rng: Random) -> Tensor:
        return tv.rgb_to_grayscale(image, 3)


class Invert(_OfHalf):
    """The negative of the image: RandomInvert."""

    name = "invert"

    def apply(self, image: Tensor, rng: Random) -> Tensor:
        return tv.invert(image)


@dataclass(frozen=True)
class Posterize(_OfHalf):
    """The `bits` highest bits of each value: RandomPosterize."""

    bits: int = whole(4, "a number of bits, 1 to 8", 1, 8)
    name = "posterize"

    def apply(self, image: Tensor, rng: Random) -> Tensor:
        return tv.posterize(image, self.bits)


@dataclass(frozen=True)
class Sharpness(_OfHalf):
    """Sharper, or softer: RandomAdjustSharpness.

    Attributes:
        factor: 0 smooths, 1 changes nothing, 2 doubles the sharpness.
    """

    factor: float = number(2.0, "a number, at least 0", 0, 100)
    name = "sharpness"

    def apply(self, image: Tensor, rng: Random) -> Tensor:
        return operations.adjust_sharpness(image, self.factor)


@dataclass(frozen=True)
class Solarize(_OfHalf):
    """Values from `threshold` on inverted: RandomSolarize."""

    threshold: float = number(128.0, "a level, 0 to 255", 0, 255)
    name = "solarize"

    def apply(self, image: Tensor, rng: Random) -> Tensor:
        return tv.solarize(image, self.threshold)


class VerticalFlip(_OfHalf):
    """Upside down: RandomVerticalFlip."""

    name = "vertical_flip"

    def apply(self, image: Tensor, rng: Random) -> Tensor:
        return image.flip(-2)
