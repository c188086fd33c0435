"""The request for a sampler, and the class sizes of a data set, in plain numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lookalike.errors import ConfigError

IMAGES_PER_CLASS = 4
POWER = 0.5

_MEANT_FOR = {
    "images_per_class": ("pk", "data.images_per_class"),
    "power": ("balanced", "data.sampling_power"),
    "threshold": ("repeat_factor", "data.repeat_threshold"),
}
"""Sampler and setting of the numbers that are for one sampler."""


@dataclass(frozen=True)
class Sampling:
    """The request for a sampler, with numbers in the ranges of the settings.

    Attributes:
        name: a key of `lookalike.data.samplers.SAMPLERS`.
        images_per_class: K of pk; None for 4.
        power: of balanced; None for 0.5.
        threshold: of repeat_factor, a share of all images below 1, a number of images from 1 on;
            None for the mean number of images a class.
        repeats: how often each image stands in a batch, each time augmented anew.

    Raises:
        ConfigError: a number is of another sampler.
    """

    name: str = "shuffle"
    images_per_class: int | None = None
    power: float | None = None
    threshold: float | None = None
    repeats: int = 1

    def __post_init__(self) -> None:
        for field, (name, key) in _MEANT_FOR.items():
            if getattr(self, field) is not None and name != self.name:
                raise ConfigError(
                    f"{key}={getattr(self, field)} is for data.sampler={name}; with "
                    f"data.sampler={self.name} leave it out"
                )

    @property
    def k(self) -> int:
        """Images a class and batch of pk; 1 of the others."""
        if self.name != "pk":
            return 1
        return IMAGES_PER_CLASS if self.images_per_class is None else self.images_per_class

    def check_batch(self, batch_size: int) -> None:
        """Raise a ConfigError unless a batch holds whole groups."""
        group = self.k * self.repeats
        if batch_size % group == 0:
            return
        parts = [
            f"data.images_per_class={self.k}" if self.k > 1 else "",
            f"data.repeats={self.repeats}" if self.repeats > 1 else "",
        ]
        fits = batch_size - batch_size % group
        choices = f"{fits} or {fits + group}" if fits else str(group)
        raise ConfigError(
            f"train.batch_size={batch_size} is not a multiple of "
            f"{' times '.join(part for part in parts if part)}; use {choices}"
        )


@dataclass(frozen=True)
class Sizes:
    """Histogram of the sizes of classes, without empty ones.

    Attributes:
        images: (k,) int64, the numbers of images that occur.
        classes: (k,) int64, the number of classes of each size.
    """

    images: np.ndarray
    classes: np.ndarray

    @classmethod
    def of(cls, counts: np.ndarray) -> Sizes:
        """Of the numbers of images of all classes (C,)."""
        images, classes = np.unique(counts[counts > 0], return_counts=True)
        return cls(images.astype(np.int64), classes.astype(np.int64))

    @classmethod
    def even(cls, images: int, classes: int) -> Sizes:
        """Of classes that differ by one image at most."""
        least, more = divmod(images, classes)
        sizes = np.array([least, least + 1])
        return cls(*(part[sizes > 0] for part in (sizes, np.array([classes - more, more]))))

    @property
    def total(self) -> int:
        """All images."""
        return int((self.images * self.classes).sum())

    @property
    def num_classes(self) -> int:
        """All classes that have images."""
        return int(self.classes.sum())
