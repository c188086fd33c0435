"""Base class of augmentations, and their options with the checks of values."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from random import Random
from typing import Any, ClassVar, Self

from torch import Tensor

from lookalike.data.image_size import ImageSize
from lookalike.errors import ConfigError

Check = Callable[[Any], Any]
"""Returns the value to use, or raises a ValueError that describes the allowed values."""


def option(default: Any, check: Check) -> Any:
    """A dataclass field of an augmentation, with its own check."""
    return field(default=default, metadata={"check": check})


def number(default: float, words: str, lowest: float, highest: float = math.inf) -> Any:
    """A field of at least `lowest` and at most `highest`, described by `words`."""
    return option(default, lambda value: _number(value, words, lowest, highest))


def probability(default: float) -> Any:
    """A field from 0 to 1."""
    return number(default, "a probability, 0 to 1", 0, 1)


def whole(default: int, words: str, lowest: int, highest: int) -> Any:
    """A field of a whole number of at least `lowest` and at most `highest`."""

    def check(value: Any) -> int:
        if _number(value, words, lowest, highest) != int(value):
            raise ValueError(words)
        return int(value)

    return option(default, check)


def span(default: tuple[float, float], words: str, lowest: float, highest: float = math.inf) -> Any:
    """A field of two numbers in order, both within the bounds."""

    def check(value: Any) -> tuple[float, float]:
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise ValueError(words)
        low, high = (_number(part, words, lowest, highest) for part in value)
        if low > high:
            raise ValueError(words)
        return low, high

    return option(default, check)


def _number(value: Any, words: str, lowest: float, highest: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(words)
    if not lowest <= value <= highest:  # NaN fails the comparison
        raise ValueError(words)
    return float(value)


@dataclass(frozen=True)
class Augmentation(ABC):
    """A random change of one image.

    The result is a function of the image and the state of `rng` alone: no sums of floats whose
    order depends on the number of threads.

    Attributes:
        p: the probability that the image is changed at all.
    """

    p: float = probability(1.0)

    name: ClassVar[str]

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            try:
                checked = entry.metadata["check"](value)
            except ValueError as error:
                raise ConfigError(
                    f"data.augment: {self.name}.{entry.name}={value!r} is not {error}; "
                    f"default: {entry.default}"
                ) from None
            object.__setattr__(self, entry.name, checked)

    def __call__(self, image: Tensor, rng: Random) -> Tensor:
        """The changed image, or `image` itself; (3, H, W) uint8 RGB in any memory order."""
        return self.apply(image, rng) if rng.random() < self.p else image

    @abstractmethod
    def apply(self, image: Tensor, rng: Random) -> Tensor:
        """A changed copy, or a view that must not be written to."""

    def fitted(self, image_size: ImageSize, mean: tuple[float, float, float]) -> Self:
        """This augmentation for images of one size; normalization subtracts `mean`, 0 to 1.

        Raises:
            ConfigError: it cannot work on images of that size.
        """
        return self
