"""Base classes of samplers, and the plain one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from random import Random
from typing import ClassVar

import numpy as np

from lookalike.data.rng import EpochRng
from lookalike.data.samplers.sampling import Sampling, Sizes

Shape = tuple[int, int]
"""Steps of an epoch, and images in a step of all workers together."""

_ORDER_STREAM = 1


class Sampler(ABC):
    """The rows of every batch of every epoch: a pure function of (seed, epoch).

    Attributes:
        steps_per_epoch: global batches in an epoch; the same in each.
        batch_size: images in a step of all workers together.
        repeating: whether a row may come twice in an epoch.
    """

    name: ClassVar[str]
    repeating: bool = True

    def __init__(
        self, class_ids: np.ndarray, *, batch_size: int, seed: int, sampling: Sampling
    ) -> None:
        """Prepare for rows of these classes, (N,), at least one row; the batch size is global."""
        self.seed = seed
        self.sampling = sampling
        self.class_ids = class_ids
        self.counts = np.bincount(class_ids)
        self.sizes = Sizes.of(self.counts)
        self.steps_per_epoch, self.batch_size = self.shape(self.sizes, batch_size, sampling)

    @classmethod
    def shape(cls, sizes: Sizes, batch_size: int, sampling: Sampling) -> Shape:
        """Steps and global batch of an epoch over classes of these sizes.

        By default the batch is the whole set where that is smaller, and an epoch has as many full
        batches as the set.
        """
        batch = min(sizes.total, batch_size)
        return sizes.total // batch, batch

    @abstractmethod
    def rows(self, epoch: int) -> np.ndarray:
        """(steps_per_epoch, batch_size) int64."""

    def substitute(self, row: int, attempt: int, rng: Random) -> int:
        """A row in place of `row`, which cannot be read; maybe `row` itself.

        `attempt` is the number of the one that failed, from 0; `rng` belongs to this row.
        """
        return int(rng.random() * len(self.class_ids))

    def describe(self) -> str:
        """A description of an epoch for the user; empty for the plain sampler."""
        return ""


class Shuffle(Sampler):
    """Every image once an epoch, in a random order; an incomplete last batch is left out."""

    name = "shuffle"
    repeating = False

    def rows(self, epoch: int) -> np.ndarray:
        order = EpochRng(self.seed, epoch, _ORDER_STREAM).permutation(len(self.class_ids))
        return order[: self.steps_per_epoch * self.batch_size].reshape(-1, self.batch_size)


class ClassSampler(Sampler):
    """A sampler that depends on the classes; substitutes of bad images are of the same class."""

    def __init__(
        self, class_ids: np.ndarray, *, batch_size: int, seed: int, sampling: Sampling
    ) -> None:
        super().__init__(class_ids, batch_size=batch_size, seed=seed, sampling=sampling)
        self.starts = np.cumsum(self.counts) - self.counts  # (C,) of each class in what follows
        self._grouped = np.argsort(class_ids, kind="stable")  # (N,) rows, class by class

    def grouped(self, rng: EpochRng) -> np.ndarray:
        """(N,) rows class by class, those of a class in a random order."""
        return np.lexsort((rng.keys(len(self.class_ids)), self.class_ids))

    def substitute(self, row: int, attempt: int, rng: Random) -> int:
        """Of the same class for the first attempts, where that has others."""
        kind = self.class_ids[row]
        drawn = rng.random()
        if attempt < 4 and self.counts[kind] > 1:
            return int(self._grouped[self.starts[kind] + int(drawn * self.counts[kind])])
        return int(drawn * len(self.class_ids))
