"""Partial classes of a step: those of the batch, and a random part of the others, drawn anew.

Partial FC (An et al., arXiv 2203.15565).
"""

import math

import numpy as np
import torch
from torch import Tensor


class PartialClassSampler:
    """Draws the share `rate` in (0, 1) of `count` classes without making a list of them.

    k -> (a k + b) mod p over the smallest prime p >= count, with random a and b, is a permutation
    under which any two classes are drawn together exactly as often as in a uniform draw without
    replacement (the affine maps of a prime field carry any pair to any pair). It costs one
    multiplication for each class drawn. Draws follow from `seed` and the step.
    """

    def __init__(self, count: int, rate: float, seed: int) -> None:
        self.count, self.seed = count, seed
        self.size = min(count, max(1, math.ceil(rate * count))) if count else 0
        self.prime = _prime_from(count)

    def draw(self, positives: Tensor, step: int) -> Tensor:
        """The classes of a step, (m,) int64, ascending, each once.

        `positives` (B,) are the classes of the batch; those outside [0, count) are held elsewhere.
        """
        device = positives.device
        if not self.count:
            return torch.empty(0, dtype=torch.int64, device=device)
        rng = np.random.default_rng([self.seed, step])
        factor, offset = int(rng.integers(1, max(self.prime, 2))), int(rng.integers(self.prime))
        # Numbers from count to the prime are no classes: draw that many more.
        wanted = min(self.prime, self.size + self.prime - self.count)
        drawn = (torch.arange(wanted, device=device) * factor + offset) % self.prime
        drawn = drawn[drawn < self.count][: self.size]
        held = positives[(positives >= 0) & (positives < self.count)]
        return torch.unique(torch.cat([drawn, held]))  # ascending


def positions(index: Tensor, classes: Tensor) -> Tensor:
    """Positions of `classes` (B,) in `index` (m,), ascending; -1 for those not in it."""
    if not len(index):
        return torch.full_like(classes, -1)
    place = torch.searchsorted(index, classes).clamp_max(len(index) - 1)
    return place.where(index[place] == classes, -1)


def _prime_from(number: int) -> int:
    """The smallest prime that is not below `number`, 2 at least."""
    number = max(number, 2)
    while any(number % d == 0 for d in range(2, math.isqrt(number) + 1)):
        number += 1
    return number
