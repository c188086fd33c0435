"""What every augmentation is."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar, Self

from torch import Tensor

from lookalike.data.augmentations.parameters import check_options, probability
from lookalike.data.image_size import ImageSize


@dataclass(frozen=True)
class Augmentation:
    """A change of a picture that a chance decides.

    All chance comes from the `Random` that is passed in, and pixels are computed without sums of
    floats whose order depends on the number of threads: one stream of chance, one picture.

    Attributes:
        p: the probability that the picture is changed at all.
    """

    p: float = probability(1.0)

    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_options(self)

    def __call__(self, image: Tensor, rng: Random) -> Tensor:
        """The changed picture, or `image` itself.

        Args:
            image: (3, H, W) uint8 RGB, in any memory order; left as it is.
            rng: the source of all chance about this picture.

        Returns:
            (3, H, W) uint8 in any memory order.
        """
        return self.apply(image, rng) if rng.random() < self.p else image

    def apply(self, image: Tensor, rng: Random) -> Tensor:
        """The picture changed, with the drawn strength."""
        raise NotImplementedError

    def fitted(self, image_size: ImageSize, mean: tuple[float, float, float]) -> Self:
        """This augmentation for pictures of one size.

        Args:
            image_size: side of a square, or (height, width), in pixels.
            mean: what the model's normalisation subtracts, in [0, 1].

        Raises:
            ConfigError: it cannot work on pictures of that size.
        """
        return self
