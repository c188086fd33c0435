"""Batches of P classes with K images each.

As in "In Defense of the Triplet Loss" (Hermans, Beyer and Leibe, arXiv 1703.07737), but exact
about epochs: every image is seen, as far as no class may be twice in a batch.
"""

from __future__ import annotations

import numpy as np

from lookalike.data.rng import EpochRng
from lookalike.data.samplers.sampler import ClassSampler, Shape
from lookalike.data.samplers.sampling import Sampling, Sizes

_PK_STREAM = 2


class PkSampler(ClassSampler):
    """P distinct classes with K images each in every batch.

    An epoch puts the images of a class into a random order and cuts it into groups of K; the last
    group is filled from the start of that order, repeatedly where the class has fewer than K
    images. Groups are dealt to T batches, no class twice to one, with

        T = the largest T with  sum over classes of min(groups of the class, T) >= P T

    So an epoch sees every image at least once, and those that fill up once more, but for fewer
    than P groups that are left over, and but for classes of more than T groups, of which T groups
    are seen, both random.
    """

    name = "pk"

    @classmethod
    def shape(cls, sizes: Sizes, batch_size: int, sampling: Sampling) -> Shape:
        """T, and P times K; P is the number of classes where there are fewer."""
        k = sampling.k
        p = min(batch_size // k, sizes.num_classes)
        groups = -(-sizes.images // k)

        def enough(steps: int) -> bool:
            return int((sizes.classes * np.minimum(groups, steps)).sum()) >= p * steps

        # What is summed is concave in the steps and holds at 1: so it holds up to some number.
        low, high = 1, int((sizes.classes * groups).sum()) // p
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if enough(middle) else (low, middle - 1)
        return low, p * k

    def rows(self, epoch: int) -> np.ndarray:
        """In each batch the first image of every class, then the second of every class, ...

        So the share of each worker has as many classes as it can.
        """
        rng = EpochRng(self.seed, epoch, _PK_STREAM)
        k, steps = self.sampling.k, self.steps_per_epoch
        p = self.batch_size // k
        grouped = self.grouped(rng)
        present = np.flatnonzero(self.counts)
        present = present[rng.permutation(len(present))]
        groups = np.minimum(-(-self.counts[present] // k), steps)
        ends = np.cumsum(groups)
        # One entry for each group, class by class; the last few do not fill a batch.
        kinds = np.repeat(present, groups)[: p * steps]
        begins = np.repeat(ends - groups, groups)[: p * steps]
        number = np.arange(p * steps) - begins  # of the group within its class
        place = (number[:, None] * k + np.arange(k)) % self.counts[kinds, None]
        images = grouped[self.starts[kinds, None] + place]  # (P T, K)
        order = np.argsort(_deal(begins, p, steps, rng), kind="stable")
        return images[order].reshape(steps, p, k).transpose(0, 2, 1).reshape(steps, p * k)

    def describe(self) -> str:
        k = self.sampling.k
        return f"{self.batch_size // k} classes with {k} images each in a batch"


def _deal(begins: np.ndarray, p: int, steps: int, rng: EpochRng) -> np.ndarray:
    """The batch of each group, such that each batch gets `p` and no class is twice in one.

    Groups are dealt in turn to `p` permutations of the batches. A class lies in two permutations
    at most; batches that it has from the first are not among the next that it gets. `begins` and
    the result are (p * steps,) int64; the class of a group begins, among the groups, at `begins`.
    """
    batches = np.empty(p * steps, np.int64)
    for first in range(0, p * steps, steps):
        turn = rng.permutation(steps)
        begin = begins[first]
        if begin < first:
            taken = np.zeros(steps, bool)
            taken[batches[begin:first]] = True
            needed = int(np.searchsorted(begins, begin, side="right")) - first
            free = turn[~taken[turn]][:needed]
            chosen = np.zeros(steps, bool)
            chosen[free] = True
            turn = np.concatenate([free, turn[~chosen[turn]]])
        batches[first : first + steps] = turn
    return batches
