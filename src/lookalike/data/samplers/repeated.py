"""Every image several times in a batch, each time augmented anew."""

from __future__ import annotations

from random import Random

import numpy as np

from lookalike.data.samplers.sampler import Sampler


class Repeated(Sampler):
    """Repeated augmentation (Berman et al., arXiv 1902.05509; Hoffer et al., arXiv 1901.09335).

    A batch holds what the sampler within draws for a batch `repeats` times smaller, `repeats`
    times over. An epoch has as many images as without, so it takes a part of what the sampler
    within calls an epoch, and the next epoch goes on from there: `repeats` epochs see every image
    `repeats` times.

    Args:
        within: what draws the images; its batches are `repeats` times smaller.
        repeats: how often each image stands in a batch.
    """

    def __init__(self, within: Sampler, repeats: int) -> None:
        self.within = within
        self.repeats = repeats
        self.steps_per_epoch = repeated_steps(within.steps_per_epoch, repeats)
        self.batch_size = within.batch_size * repeats

    def rows(self, epoch: int) -> np.ndarray:
        """All images of a batch once, then all again, ..., for workers to have different ones."""
        start, wanted = epoch * self.steps_per_epoch, self.steps_per_epoch
        parts: list[np.ndarray] = []
        while wanted:
            inner, position = divmod(start, self.within.steps_per_epoch)
            parts.append(self.within.rows(inner)[position : position + wanted])
            start, wanted = start + len(parts[-1]), wanted - len(parts[-1])
        return np.tile(np.concatenate(parts), (1, self.repeats))

    def stand_in(self, row: int, attempt: int, dice: Random) -> int:
        """As the sampler within."""
        return self.within.stand_in(row, attempt, dice)

    def describe(self) -> str:
        """See the class."""
        each = f"each image {self.repeats} times in a batch"
        return ", ".join(filter(None, (self.within.describe(), each)))


def repeated_steps(steps: int, repeats: int) -> int:
    """The steps of an epoch whose batches are `repeats` times larger; at least one."""
    return max(1, steps // repeats)
