"""Augmentation of training: a random crop, a flip, augmentations by name."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lookalike.data.augmentations.augmentation import Augmentation
from lookalike.data.decoding.partial_jpeg import Box
from lookalike.data.decoding.resize import resize
from lookalike.data.image_size import ImageSize, height_width

_CROP_RATIO = (3 / 4, 4 / 3)  # smallest and largest width / height, relative to the input's


@dataclass(frozen=True)
class Augment:
    """The augmentation of training; all randomness comes from the `Random` that is passed in.

    Attributes:
        crop_scale: smallest and largest share of the image's area that a crop keeps.
        flip: probability of a horizontal flip.
        interpolation: "bilinear" or "bicubic", both antialiased.
        scaled_decode: decode big JPEGs smaller where the crop still has the input's pixels. Up to a
            quarter faster on images of several megapixels, with slightly other pixels.
        then: what follows, one after the other, on the resized crop.
    """

    image_size: ImageSize
    crop_scale: tuple[float, float] = (0.2, 1.0)
    flip: float = 0.5
    interpolation: str = "bilinear"
    scaled_decode: bool = False
    then: tuple[Augmentation, ...] = ()

    def draw_box(self, height: int, width: int, rng: random.Random) -> Box:
        """A random crop of an image of this size.

        Area and ratio (on a log scale) are uniform, ten tries, then the largest centre crop of an
        allowed ratio: torchvision's RandomResizedCrop (Szegedy et al., arXiv 1409.4842).
        """
        seen_height, seen_width = height_width(self.image_size)
        narrowest, widest = (ratio * (seen_width / seen_height) for ratio in _CROP_RATIO)
        low, high = math.log(narrowest), math.log(widest)
        for _ in range(10):
            area = height * width * rng.uniform(*self.crop_scale)
            ratio = math.exp(rng.uniform(low, high))
            crop_width = round(math.sqrt(area * ratio))
            crop_height = round(math.sqrt(area / ratio))
            if 0 < crop_width <= width and 0 < crop_height <= height:
                top = int(rng.random() * (height - crop_height + 1))
                left = int(rng.random() * (width - crop_width + 1))
                return top, left, crop_height, crop_width
        crop_height, crop_width = height, width
        if width / height < narrowest:
            crop_height = max(1, round(width / narrowest))
        elif width / height > widest:
            crop_width = max(1, round(height * widest))
        return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width

    def least_size(self, height: int, width: int, box: Box) -> tuple[int, int]:
        """The smallest (height, width) of the image at which `box` still fills the input."""
        _, _, crop_height, crop_width = box
        seen_height, seen_width = height_width(self.image_size)
        return (
            math.ceil(height * min(1, seen_height / crop_height)),
            math.ceil(width * min(1, seen_width / crop_width)),
        )

    def write(self, pixels: np.ndarray, box: Box, rng: random.Random, slot: Tensor) -> None:
        """Crop, resize and change one image, into its place in a batch.

        `pixels` are (H, W, 3), the place `slot` (3, H', W') of the input's size, both uint8; `box`
        is from `draw_box` with the same `rng`, that of this row and epoch.
        """
        top, left, height, width = box
        crop = pixels[top : top + height, left : left + width]
        image = resize(crop, *height_width(self.image_size), self.interpolation)
        if rng.random() < self.flip:
            image = image.flip(-1)
        for augmentation in self.then:
            image = augmentation(image, rng)
        slot.copy_(image)


def scale_box(box: Box, size: tuple[int, int], new_size: tuple[int, ...]) -> Box:
    """The same part of an image that was `size` (height, width) and now is `new_size`."""
    top, left, height, width = box
    y, x = new_size[0] / size[0], new_size[1] / size[1]
    top, bottom = round(top * y), round((top + height) * y)
    left, right = round(left * x), round((left + width) * x)
    return top, left, bottom - top, right - left
