"""Repeated augmentation: every image several times in a batch."""

from __future__ import annotations

from random import Random

import numpy as np

from lookalike.data.samplers.sampler import Sampler


class Repeated(Sampler):
    """Repeated augmentation (Berman et al., arXiv 1902.05509; Hoffer et al., arXiv 1901.09335).

    A batch holds a batch of the inner sampler, `repeats` times smaller, `repeats` times. An epoch
    has as many images as without: it takes a part of an epoch of the inner sampler, and the next
    epoch continues there, so that `repeats` epochs hold every image `repeats` times.
    """

    def __init__(self, inner: Sampler, repeats: int) -> None:
        self.inner = inner
        self.repeats = repeats
        self.steps_per_epoch = max(1, inner.steps_per_epoch // repeats)
        self.batch_size = inner.batch_size * repeats

    def rows(self, epoch: int) -> np.ndarray:
        """All images of a batch once, then all again, ..., for workers to have different ones."""
        start, wanted = epoch * self.steps_per_epoch, self.steps_per_epoch
        parts: list[np.ndarray] = []
        while wanted:
            inner, position = divmod(start, self.inner.steps_per_epoch)
            parts.append(self.inner.rows(inner)[position : position + wanted])
            start, wanted = start + len(parts[-1]), wanted - len(parts[-1])
        return np.tile(np.concatenate(parts), (1, self.repeats))

    def substitute(self, row: int, attempt: int, rng: Random) -> int:
        return self.inner.substitute(row, attempt, rng)

    def describe(self) -> str:
        each = f"each image {self.repeats} times in a batch"
        return ", ".join(filter(None, (self.inner.describe(), each)))
