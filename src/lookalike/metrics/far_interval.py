"""Prediction interval of a false-accept rate on new classes.

A set of C classes has C (C - 1) / 2 pairs of classes, and they are not independent: a class that
looks like many others has false accepts in many pairs, and the image pairs of one pair of classes
pass or fail together. The rate is a U-statistic of order two over the classes. Its variance over
draws of the classes is estimated as is usual for pairs of units (dyads) by

    V = (sum_i e_i^2 - sum_{i<j} e_ij^2) / M^2,   e_ij = h_ij - F m_ij,   e_i = sum_j e_ij

where classes i and j have m_ij pairs of images, h_ij of them accepted, M and H are their sums and
F = H / M is the rate (Fafchamps and Gubert, The formation of risk sharing networks, 2007; Aronow,
Samii and Assenova, Cluster-robust variance estimation for dyadic data, 2015). It has two parts
that shrink differently with C (Hoeffding): one from pairs of classes as such, about sum e_ij^2 /
M^2, with the number of pairs of classes, and one from classes that look like many, with C.

`far_interval` predicts the rate of a new set: the set that was measured and the new one are two
draws. Rates are counts of few events, and skewed; so the calibration counts as k = F^2 / V
independent false accepts, whose unknown mean is gamma distributed with k + 1/2 (Jeffreys' prior),
and the new set as a Poisson number of events with this mean, in proportion to the events that its
own variance allows: a negative binomial distribution.

Two more things widen it. V is an estimate itself, from few classes that matter: it is multiplied
by the square of Student's over the normal quantile, with the degrees of freedom that the e_i^2
have (Satterthwaite). And what a small set cannot show is the rare pair of classes that look the
same: the upper end is that of a set with one more pair of classes, all of its images accepted.

The class bootstrap of `bootstrap` cannot take its place: it is of means over queries, each of one
class, and here the units are pairs of classes. A pair of drawn classes occurs w_i w_j times, whose
variance is E(w^2)^2 - 1 = 3 where 1 is right: the part from pairs of classes, which dominates low
rates, comes out three times too large (Owen, The pigeonhole bootstrap, 2007). A resample contains
no look-alikes that the set does not have. And a prediction for another number of classes needs the
two parts separately.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lookalike.distributed.world import World
from lookalike.metrics.bootstrap import CONFIDENCE, student_quantile
from lookalike.metrics.pair_scan import SIDE, PairSet, Tile
from lookalike.storage.checked_json import Amount, Count

LEAST_EVENTS = 3.0
"""A rate is supported by classes among which it means at least so many independent events."""


@dataclass(frozen=True)
class Spread:
    """Variance of a false-accept rate over draws of the classes; in units of the rate.

    Attributes:
        classes: the number of classes that it was measured on.
        of_pairs: relative variance from pairs of classes as such, for so many classes.
        of_classes: relative variance from classes that look like many, for so many classes.
        degrees: degrees of freedom of the variance.
        alike: what one more pair of classes, all of its images accepted, would add to the rate.
    """

    classes: Count
    of_pairs: Amount
    of_classes: Amount
    degrees: Amount
    alike: Amount

    @property
    def events(self) -> float:
        """The number of independent false accepts that the rate amounts to."""
        return 1 / (self.of_pairs + self.of_classes)

    def variance(self, classes: int, *, alike: float, confidence: float) -> float:
        """The relative variance for another number of classes, at least 2.

        `alike` is the part added to the rate; Student's t depends on the confidence.
        """
        from scipy.stats import norm

        fewer = self.classes / classes
        pairs = fewer * (self.classes - 1) / (classes - 1)
        whole = (self.of_pairs + alike**2) * pairs + self.of_classes * fewer
        normal = norm.ppf((1 + confidence) / 2)
        unsure = float((student_quantile(confidence, self.degrees) / normal) ** 2)
        return whole * unsure / (1 + alike) ** 2


@dataclass(frozen=True)
class ClassPairs:
    """Pairs of images by the classes that they are of, at T thresholds."""

    pairs: np.ndarray  # (C,) int64, different pairs that each class has a part in
    accepted: np.ndarray  # (T, C) int64, those of them with a cosine of at least the threshold
    squares: np.ndarray  # (T,) int64, sum of h_ij^2 over the pairs of classes
    products: np.ndarray  # (T,) int64, sum of h_ij m_ij
    pair_squares: int  # sum of m_ij^2

    def spread(self, number: int) -> Spread:
        """Variance of the false-accept rate at a threshold, given by its number."""
        total, accepted = int(self.pairs.sum()) // 2, int(self.accepted[number].sum()) // 2
        rate = accepted / total
        by_class = (self.accepted[number] - rate * self.pairs) ** 2  # (C,)
        by_pair = float(
            self.squares[number]
            - 2 * rate * self.products[number]
            + rate**2 * self.pair_squares
        )  # fmt: skip
        classes = int((self.pairs > 0).sum())
        hubs = max(float(by_class.sum()) - 2 * by_pair, 0.0) * classes / (classes - 1)
        twice, varied = 2 * float(by_class.sum()) ** 2, float(by_class.var()) * len(by_class)
        most = classes - 1.0  # degrees of freedom, those of equal shares too
        return Spread(
            classes=classes,
            of_pairs=by_pair / accepted**2,
            of_classes=hubs / accepted**2,
            degrees=most if twice >= most * varied else min(max(twice / varied, 2.0), most),
            alike=self.pair_squares / total / accepted,
        )


def far_interval(
    far: float, spread: Spread, *, classes: int | None = None, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Prediction interval of the false-accept rate of a new set of classes; see above.

    By default the set has as many classes as were measured.
    """
    from scipy.stats import nbinom

    classes = spread.classes if classes is None else classes
    ends = []
    for level, alike in (((1 - confidence) / 2, 0.0), ((1 + confidence) / 2, spread.alike)):
        known = spread.variance(spread.classes, alike=alike, confidence=confidence)
        new = spread.variance(classes, alike=alike, confidence=confidence)
        events = float(nbinom.ppf(level, 1 / known + 0.5, 1 / (1 + known / new)))
        ends.append(min(far * (1 + alike) * events * new, 1.0))
    return ends[0], ends[1]


class ClassPairCounter:
    """Counts the pairs of tiles by their classes.

    Args:
        pairs: the set; no class has more than `SIDE` images.
        thresholds: T cosines.
    """

    def __init__(self, pairs: PairSet, thresholds: Sequence[float]) -> None:
        count = int(pairs.classes[-1]) + 1
        if int(pairs.classes.bincount().max()) > SIDE:
            raise ValueError(f"a class has more than {SIDE} images")
        self._set, self._classes, self._thresholds = pairs, pairs.classes, thresholds
        # The last row of each is of all pairs: a threshold that all pass.
        rows, device = len(thresholds) + 1, pairs.vectors.device
        self._different = torch.zeros(rows, count, dtype=torch.int64, device=device)
        self._squares = torch.zeros(rows, dtype=torch.int64, device=device)
        self._products = torch.zeros_like(self._squares)

    def add(self, tile: Tile) -> None:
        """Count the pairs of a tile."""
        if self._set.sets is not None:  # images of two first classes may have another in common
            other = ~self._set.same(tile)
            tile = replace(tile, pairs=other if tile.pairs is None else tile.pairs & other)
        rows, columns = self._classes[tile.rows], self._classes[tile.columns]
        left = slice(int(rows[0]), int(rows[-1]) + 1)
        right = slice(int(columns[0]), int(columns[-1]) + 1)
        if tile.pairs is None:
            total = (rows - rows[0]).bincount()[:, None] * (columns - columns[0]).bincount()
        else:
            total = _by_class(tile.pairs, rows, columns)  # (L, R)
        for number in range(len(self._thresholds) + 1):
            counts = total.clone()
            if number < len(self._thresholds):
                passed = tile.cosines >= self._thresholds[number]
                passed = passed if tile.pairs is None else passed & tile.pairs
                counts = _by_class(passed, rows, columns)
            if left == right:
                counts.fill_diagonal_(0)
            self._different[number, left] += counts.sum(1)
            self._different[number, right] += counts.sum(0)
            self._squares[number] += counts.square().sum()
            self._products[number] += (counts * total).sum()

    def counts(self, world: World) -> ClassPairs:
        """The pairs of all workers' tiles."""
        parts = (self._different, self._squares, self._products)
        different, squares, products = (
            world.sum(part.to(world.device)).cpu().numpy() for part in parts
        )
        return ClassPairs(
            pairs=different[-1],
            accepted=different[:-1],
            squares=squares[:-1],
            products=products[:-1],
            pair_squares=int(squares[-1]),
        )


def _by_class(mask: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The number of set elements of a (b, T) mask for each pair of classes, (L, R) int64.

    `rows`, (b,), and `columns`, (T,), are ascending classes without gaps, L and R of them.
    """
    # Counts below 2^24 are exact in float32, in any order.
    tall = mask.new_zeros(int(rows[-1] - rows[0]) + 1, mask.shape[1], dtype=torch.float32)
    tall.index_add_(0, rows - rows[0], mask.float())
    small = tall.new_zeros(int(columns[-1] - columns[0]) + 1, len(tall))
    small.index_add_(0, columns - columns[0], tall.T.contiguous())
    return small.T.long()
