"""Samplers for classes of very different size."""

from __future__ import annotations

import numpy as np

from lookalike.data.rng import EpochRng
from lookalike.data.samplers.sampler import ClassSampler, Shape
from lookalike.data.samplers.sampling import POWER, Sampling, Sizes
from lookalike.errors import ConfigError

_BALANCED_STREAM = 3
_REPEAT_STREAM = 4

_MOST_REPEATED = 1000  # times the images of the list
_MOST_ROWS = 2**31  # of an epoch, which is drawn as a whole
_UNIT = 1 << 20  # repeat factors are whole numbers of its parts, so that sums are exact


class BalancedSampler(ClassSampler):
    """A class of n images has a share of each epoch proportional to n^power.

    Power 1 is the plain distribution, 0.5 square-root sampling (Mahajan et al., arXiv 1805.00932),
    0 equal shares. An epoch has as many batches as the plain one. A class gets its share of the
    images of an epoch, rounded up or down at random, and cycles through its own images in a random
    order.
    """

    name = "balanced"

    @property
    def power(self) -> float:
        """The exponent."""
        return POWER if self.sampling.power is None else self.sampling.power

    def rows(self, epoch: int) -> np.ndarray:
        rng = EpochRng(self.seed, epoch, _BALANCED_STREAM)
        total = self.steps_per_epoch * self.batch_size
        grouped = self.grouped(rng)
        present = np.flatnonzero(self.counts)
        present = present[rng.permutation(len(present))]
        weights = np.cumsum(self.counts[present].astype(np.float64) ** self.power)
        # Systematic sampling: of points at distance 1 with a random offset, each class gets those
        # within its share, the shares laid end to end.
        offset = rng.below(_UNIT) / _UNIT
        ends = np.floor(weights / weights[-1] * total + offset).astype(np.int64)
        ends[-1] = total
        drawn = np.diff(ends, prepend=0)
        kinds = np.repeat(present, drawn)
        place = (np.arange(total) - np.repeat(ends - drawn, drawn)) % self.counts[kinds]
        rows = grouped[self.starts[kinds] + place]
        return rows[rng.permutation(total)].reshape(-1, self.batch_size)

    def describe(self) -> str:
        return f"a class of n images has a share of n^{self.power:g}"


class RepeatFactorSampler(ClassSampler):
    """Images of small classes come several times (Gupta, Dollar and Girshick, arXiv 1908.03195).

    A class of n images has the repeat factor max(1, sqrt(threshold / n)), with the threshold in
    images. Each of its images comes as often in an epoch, rounded up or down at random, so every
    image comes at least once but for what an incomplete last batch leaves out.
    """

    name = "repeat_factor"

    @classmethod
    def shape(cls, sizes: Sizes, batch_size: int, sampling: Sampling) -> Shape:
        """As many full batches as all repeat factors together give, rounded down.

        Raises:
            ConfigError: the threshold makes an epoch of too many images.
        """
        threshold = _threshold(sizes, sampling)
        factors = np.maximum(1.0, np.sqrt(threshold / sizes.images))
        images = float((sizes.classes * sizes.images * factors).sum())
        if not images <= _MOST_REPEATED * sizes.total or images > _MOST_ROWS:
            raise ConfigError(
                f"data.repeat_threshold={threshold:g} makes an epoch of {images:.3g} images out "
                f"of {sizes.total:,}; use a lower one ({sizes.total / sizes.num_classes:.4g}, the "
                "mean number of images a class, by default)"
            )
        factors = _repeat_factors(sizes.images, sizes, sampling)
        total = int((sizes.classes * sizes.images * factors).sum()) // _UNIT
        batch = min(sizes.total, batch_size)
        return total // batch, batch

    def rows(self, epoch: int) -> np.ndarray:
        rng = EpochRng(self.seed, epoch, _REPEAT_STREAM)
        order = rng.permutation(len(self.class_ids))
        images = self.counts[self.class_ids[order]]
        factors = _repeat_factors(images, self.sizes, self.sampling)
        ends = (np.cumsum(factors) + rng.below(_UNIT)) // _UNIT
        rows = np.repeat(order, np.diff(ends, prepend=0))
        rows = rows[rng.permutation(len(rows))]
        return rows[: self.steps_per_epoch * self.batch_size].reshape(-1, self.batch_size)

    def describe(self) -> str:
        threshold = _threshold(self.sizes, self.sampling)
        return (
            f"images of classes below {threshold:.4g} images come sqrt({threshold:.4g} / n) times"
        )


def _threshold(sizes: Sizes, sampling: Sampling) -> float:
    """In images."""
    if sampling.threshold is None:
        return sizes.total / sizes.num_classes
    return sampling.threshold * sizes.total if sampling.threshold < 1 else sampling.threshold


def _repeat_factors(images: np.ndarray, sizes: Sizes, sampling: Sampling) -> np.ndarray:
    """Of classes with so many images each: int64, in parts of `_UNIT`."""
    factors = np.maximum(1.0, np.sqrt(_threshold(sizes, sampling) / images))
    return np.rint(factors * _UNIT).astype(np.int64)
