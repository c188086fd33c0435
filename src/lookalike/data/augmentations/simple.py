"""Augmentations of one fixed strength, made with a probability: torchvision's Random classes."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from torch import Tensor

from lookalike.data.augmentations import colours, filters
from lookalike.data.augmentations.augmentation import Augmentation
from lookalike.data.augmentations.parameters import number, probability, whole


@dataclass(frozen=True)
class AutoContrast(Augmentation):
    """Every channel stretched to the whole range: RandomAutocontrast."""

    p: float = probability(0.5)
    name = "auto_contrast"

    def apply(self, image: Tensor, rng: Random) -> Tensor:
        """See the class."""
        return colours.auto_contrast(image)


@dataclass(frozen=True)
class Equalize(Augmentation):
    """All values about equally frequent in every channel: RandomEqualize."""

    p: float = probability(0.5)
    name = "equalize"

    def apply(self, image: Tensor, rng: Random) -> Tensor:
        """See the class."""
        return colours.equalize(image)


@dataclass(frozen=True)
class Grayscale(Augmentation):
    """All colour taken away: RandomGrayscale."""

    p: float = probability(0.1)
    name = "grayscale"

    def apply(self, image: Tensor, rng: Random) -> Tensor:
        """See the class."""
        return colours.grayscale(image)


@dataclass(frozen=True)
class Invert(Augmentation):
    """The negative of the picture: RandomInvert."""

    p: float = probability(0.5)
    name = "invert"

    def apply(self, image: Tensor, rng: Random) -> Tensor:
        """See the class."""
        return colours.invert(image)


@dataclass(frozen=True)
class Posterize(Augmentation):
    """Fewer levels: RandomPosterize.

    Attributes:
        bits: how many bits of a value are kept.
    """

    p: float = probability(0.5)
    bits: int = whole(4, "a number of bits, 1 to 8", 1, 8)
    name = "posterize"

    def apply(self, image: Tensor, rng: Random) -> Tensor:
        """See the class."""
        return colours.posterize(image, self.bits)


@dataclass(frozen=True)
class Sharpness(Augmentation):
    """Sharper, or softer: RandomAdjustSharpness.

    Attributes:
        factor: 0 is smoothed, 1 is as it was, 2 is twice as sharp.
    """

    p: float = probability(0.5)
    factor: float = number(2.0, "a number, at least 0", 0, 100)
    name = "sharpness"

    def apply(self, image: Tensor, rng: Random) -> Tensor:
        """See the class."""
        return filters.adjust_sharpness(image, self.factor)


@dataclass(frozen=True)
class Solarize(Augmentation):
    """Bright values inverted: RandomSolarize.

    Attributes:
        threshold: the level from which on they are.
    """

    p: float = probability(0.5)
    threshold: float = number(128.0, "a level, 0 to 255", 0, 255)
    name = "solarize"

    def apply(self, image: Tensor, rng: Random) -> Tensor:
        """See the class."""
        return colours.solarize(image, self.threshold)


@dataclass(frozen=True)
class VerticalFlip(Augmentation):
    """Upside down: RandomVerticalFlip."""

    p: float = probability(0.5)
    name = "vertical_flip"

    def apply(self, image: Tensor, rng: Random) -> Tensor:
        """See the class."""
        return image.flip(-2)
