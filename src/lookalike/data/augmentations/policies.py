"""RandAugment and TrivialAugmentWide: operations drawn for each image.

The operations, their ranges and their bins are those of torchvision's RandAugment and
TrivialAugmentWide.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from lookalike.data.augmentations import operations
from lookalike.data.augmentations.augmentation import Augmentation, whole
from lookalike.errors import ConfigError

OPERATIONS: dict[str, Callable[[Tensor, float, int], Tensor]] = {
    "identity": lambda x, m, fill: x,
    "shear_x": operations.shear_x,
    "shear_y": operations.shear_y,
    "translate_x": lambda x, m, fill: operations.translate(x, int(m), 0, fill),
    "translate_y": lambda x, m, fill: operations.translate(x, 0, int(m), fill),
    "rotate": operations.rotate,
    "brightness": lambda x, m, fill: tv.adjust_brightness(x, 1 + m),
    "color": lambda x, m, fill: tv.adjust_saturation(x, 1 + m),
    "contrast": lambda x, m, fill: operations.adjust_contrast(x, 1 + m),
    "sharpness": lambda x, m, fill: operations.adjust_sharpness(x, 1 + m),
    "posterize": lambda x, m, fill: tv.posterize(x, int(m)),
    "solarize": lambda x, m, fill: tv.solarize(x, 255 * m),
    "auto_contrast": lambda x, m, fill: tv.autocontrast(x.contiguous()),
    "equalize": lambda x, m, fill: operations.equalize(x),
}
"""(image, magnitude, grey level to fill with) -> image."""

SIGNED = (
    "shear_x", "shear_y", "translate_x", "translate_y", "rotate",
    "brightness", "color", "contrast", "sharpness",
)  # fmt: skip
"""Operations whose magnitude is as often negative as positive."""


@dataclass(frozen=True)
class _Ranges:
    """The largest magnitudes, of shears as a slope, of rotation in degrees, of factors as the
    distance from 1; `posterize` is the number of bits that are lost at most.

    Attributes:
        shift: the largest translation for a side in pixels.
    """

    shear: float
    shift: Callable[[int], float]
    degrees: float
    factor: float
    posterize: int

    def magnitude(self, name: str, strength: float, height: int, width: int) -> float:
        """Of operation `name` at `strength`, 0 to 1; 0 for one that has none."""
        match name:
            case "shear_x" | "shear_y":
                return self.shear * strength
            case "translate_x":
                return self.shift(width) * strength
            case "translate_y":
                return self.shift(height) * strength
            case "rotate":
                return self.degrees * strength
            case "brightness" | "color" | "contrast" | "sharpness":
                return self.factor * strength
            case "posterize":
                return 8 - round(self.posterize * strength)
            case "solarize":
                return 1 - strength
        return 0.0


_RAND_AUGMENT = _Ranges(
    shear=0.3, shift=lambda side: 150 / 331 * side, degrees=30, factor=0.9, posterize=4
)
_TRIVIAL_WIDE = _Ranges(shear=0.99, shift=lambda side: 32, degrees=135, factor=0.99, posterize=6)


@dataclass(frozen=True)
class _Policy(Augmentation):
    """Operations drawn from all of them.

    Attributes:
        bins: how many strengths there are, evenly from none to the largest.
        fill: grey level of what becomes free where the image is moved.
    """

    bins: int = whole(31, "a number of bins, at least 2", 2, 10**6)
    fill: int = whole(0, "a grey level, 0 to 255", 0, 255)

    ranges: ClassVar[_Ranges]

    def draw(self, height: int, width: int, rng: Random) -> tuple[str, float]:
        """The name of an operation and its magnitude, for an image of this size."""
        name = tuple(OPERATIONS)[int(rng.random() * len(OPERATIONS))]
        strength = self._bin(rng) / (self.bins - 1)
        magnitude = self.ranges.magnitude(name, strength, height, width)
        if name in SIGNED and rng.random() < 0.5:
            magnitude = -magnitude
        return name, magnitude

    @abstractmethod
    def _bin(self, rng: Random) -> int:
        """The number of a strength, below `bins`."""

    def _once(self, image: Tensor, rng: Random) -> Tensor:
        name, magnitude = self.draw(image.shape[1], image.shape[2], rng)
        return OPERATIONS[name](image, magnitude, self.fill)


@dataclass(frozen=True)
class RandAugment(_Policy):
    """Some operations of one strength: torchvision's RandAugment (arXiv 1909.13719).

    Attributes:
        num_ops: how many, one after the other.
        magnitude: their strength: a bin, from 0.
    """

    num_ops: int = whole(2, "a number of operations, 0 to 14", 0, 14)
    magnitude: int = whole(9, "a bin, from 0", 0, 10**6)

    name = "rand_augment"
    ranges = _RAND_AUGMENT

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.magnitude >= self.bins:
            raise ConfigError(
                f"data.augment: {self.name}.magnitude={self.magnitude} is not one of the "
                f"{self.bins} bins, 0 to {self.bins - 1}; {self.name}.bins is their number"
            )

    def apply(self, image: Tensor, rng: Random) -> Tensor:
        for _ in range(self.num_ops):
            image = self._once(image, rng)
        return image

    def _bin(self, rng: Random) -> int:
        return self.magnitude


@dataclass(frozen=True)
class TrivialAugment(_Policy):
    """One operation of any strength: torchvision's TrivialAugmentWide (arXiv 2103.10158)."""

    name = "trivial_augment"
    ranges = _TRIVIAL_WIDE

    def apply(self, image: Tensor, rng: Random) -> Tensor:
        return self._once(image, rng)

    def _bin(self, rng: Random) -> int:
        return int(rng.random() * self.bins)
