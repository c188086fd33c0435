"""Verification (same or different) by a threshold on the cosine of two images.

Every pair of the set is counted, in bins of 2^-16 of the cosine: two histograms, of pairs of the
same class and of pairs of different classes, are all that is held. A threshold is the lower edge
of a bin, and "the same" means a cosine of at least the threshold: so each rate is exact for its
threshold, and thresholds have a resolution of 2^-16, which is 0.000015. The area under the curve
counts two cosines of one bin as a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike.distributed.world import ALONE, World
from lookalike.errors import DataError
from lookalike.metrics.pair_scan import PairSet, Tile
from lookalike.metrics.protocol import Roles

RESOLUTION = 2.0**-16
"""Width of a bin, in units of the cosine."""

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""False-accept rates for which thresholds are looked up."""

LEAST_ACCEPTED = 10
"""A rate is supported by a set in which it means at least so many false accepts."""

BINS = 2**17 + 1
"""Of the cosines from -1 to 1; the last one holds 1 and what rounding puts above it."""

DEFINITIONS = {
    "same_pairs": "pairs of different images of one class, each once; with roles, of a query and"
    " an image of the gallery; never of one sequence",
    "different_pairs": "such pairs of images of different classes",
    "far": "false-accept rate: share of the different pairs with a cosine of at least the"
    " threshold",
    "tar": "true-accept rate: share of the same pairs with a cosine of at least the threshold",
    "auc": "probability that a same pair has a higher cosine than a different pair; ties, which"
    " are cosines of one bin of 2^-16, count half",
    "eer": "equal error rate: the FAR at which it equals 1 - TAR, linear between thresholds",
    "accuracy": "largest share of all pairs that one threshold gets right; with many more different"
    " pairs than same ones it means little",
    "balanced_accuracy": "largest mean of TAR and 1 - FAR that one threshold reaches",
}


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and its rates."""

    target: float  # the false-accept rate that was asked for
    threshold: float  # the lowest cosine, in steps of 2^-16, whose rate is not above the target
    far: float  # the false-accept rate measured at it
    tar: float
    false_accepts: int  # different pairs that are accepted


@dataclass(frozen=True)
class Verification:
    """Verification metrics of a set of pairs; see `DEFINITIONS`.

    `operating` has a point for each rate that the pairs support; `unsupported` are the others.
    """

    same_pairs: int
    different_pairs: int
    auc: float
    eer: float
    eer_threshold: float
    accuracy: float
    accuracy_threshold: float
    balanced_accuracy: float
    balanced_threshold: float
    operating: tuple[OperatingPoint, ...]
    unsupported: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "resolution": RESOLUTION}


@dataclass(frozen=True)
class PairCounts:
    """Histograms of the cosines of pairs.

    Attributes:
        same: (bins,) int64, pairs of one class; bin i holds cosines from -1 + i * 2^-16 on.
        different: (bins,) int64, pairs of two classes.
    """

    same: np.ndarray
    different: np.ndarray

    @property
    def thresholds(self) -> np.ndarray:
        """(bins + 1,) float64: the lower edges, and one above all cosines."""
        return np.arange(BINS + 1) * RESOLUTION - 1

    @property
    def accepted(self) -> tuple[np.ndarray, np.ndarray]:
        """Same and different pairs with a cosine of at least each threshold, (bins + 1,) int64."""
        same, different = (
            np.concatenate([counts[::-1].cumsum()[::-1], [0]])
            for counts in (self.same, self.different)
        )
        return same, different

    def at(self, threshold: float) -> tuple[int, int]:
        """Same and different pairs with a cosine of at least a threshold in steps of 2^-16."""
        place = int(np.clip(np.ceil((threshold + 1) / RESOLUTION), 0, BINS))
        same, different = self.accepted
        return int(same[place]), int(different[place])

    def operating_point(self, target: float) -> OperatingPoint | None:
        """The lowest threshold whose false-accept rate is not above `target`.

        None where the pairs do not support it: see `LEAST_ACCEPTED`.
        """
        same, different = self.accepted
        if target * different[0] < LEAST_ACCEPTED:
            return None
        place = int(np.argmax(different <= target * different[0]))  # the first: they fall
        return OperatingPoint(
            target=target,
            threshold=float(self.thresholds[place]),
            far=float(different[place] / different[0]),
            tar=float(same[place] / same[0]),
            false_accepts=int(different[place]),
        )

    def curve(self, points: int = 200) -> list[tuple[float, float, float]]:
        """(FAR, TAR, threshold) of some thresholds along the ROC curve, by falling threshold."""
        same, different = (counts / counts[0] for counts in self.accepted)
        # Even steps along the curve, whose length is at most 2.
        along = np.concatenate([[0], np.cumsum(np.diff(same[::-1]) + np.diff(different[::-1]))])
        places = np.searchsorted(along, np.linspace(0, along[-1], points))
        places = len(same) - 1 - np.unique(places)
        thresholds = self.thresholds
        return [(float(different[i]), float(same[i]), float(thresholds[i])) for i in places]


def binned(cosines: Tensor) -> Tensor:
    """The bins of (n,) float64 cosines, int64."""
    return ((cosines + 1) / RESOLUTION).floor_().clamp_(0, BINS - 1).long()


class PairCounter:
    """Counts the pairs of tiles."""

    def __init__(self, pairs: PairSet) -> None:
        self._set = pairs
        device = pairs.vectors.device
        self._all = torch.zeros(BINS, dtype=torch.int64, device=device)
        self._same = torch.zeros_like(self._all)

    def add(self, tile: Tile) -> None:
        """Count the pairs of a tile."""
        self._all += binned(tile.found()).bincount(minlength=BINS)
        if tile.one_class:
            self._same += binned(tile.found(self._set.same(tile))).bincount(minlength=BINS)

    def counts(self, world: World) -> PairCounts:
        """The pairs of all workers' tiles."""
        both = torch.stack([self._same, self._all - self._same]).to(world.device)
        same, different = world.sum(both).cpu().numpy()
        return PairCounts(same, different)


def count_pairs(
    embeddings: Tensor,
    labels: Tensor,
    *,
    roles: Roles | None = None,
    world: World = ALONE,
    device: torch.device | None = None,
) -> PairCounts:
    """Count all pairs of a set by their cosine.

    The (N, D) embeddings are finite, and on all workers the same, as are the counts.
    """
    pairs = PairSet.of(embeddings, labels, roles=roles, device=device or world.device)
    counter = PairCounter(pairs)
    for tile in pairs.tiles(world):
        counter.add(tile)
    return counter.counts(world)


def verify(counts: PairCounts, fars: Sequence[float] = FARS) -> Verification:
    """Verification metrics, with operating points for the false-accept rates `fars`.

    Raises:
        DataError: there are no pairs of one class, or none of two.
    """
    same, different = counts.accepted
    if not same[0] or not different[0]:
        missing = "the same class" if not same[0] else "different classes"
        raise DataError(
            f"verification cannot be measured: no two images that are compared are of {missing}"
        )
    far, tar = different / different[0], same / same[0]
    # Of each different pair, the same pairs above it, and half of those in its bin.
    wins = (counts.different / different[0] * (same[1:] + counts.same / 2) / same[0]).sum()
    right = same + (different[0] - different)
    accurate, balanced = int(right.argmax()), int((tar - far).argmax())
    eer, eer_threshold = _equal_errors(far, 1 - tar, counts.thresholds)
    points = {target: counts.operating_point(target) for target in fars}
    return Verification(
        same_pairs=int(same[0]),
        different_pairs=int(different[0]),
        auc=float(wins),
        eer=eer,
        eer_threshold=eer_threshold,
        accuracy=float(right[accurate] / (same[0] + different[0])),
        accuracy_threshold=float(counts.thresholds[accurate]),
        balanced_accuracy=float((tar[balanced] + 1 - far[balanced]) / 2),
        balanced_threshold=float(counts.thresholds[balanced]),
        operating=tuple(point for point in points.values() if point is not None),
        unsupported=tuple(target for target, point in points.items() if point is None),
    )


def _equal_errors(far: np.ndarray, frr: np.ndarray, thresholds: np.ndarray) -> tuple[float, float]:
    """Rate and threshold at the crossing of falling `far` and rising `frr`, interpolated."""
    after = int(np.argmax(frr >= far))  # never the first, where everything passes
    before = after - 1
    gap_before, gap_after = far[before] - frr[before], far[after] - frr[after]
    part = gap_before / (gap_before - gap_after)
    return (
        float(far[before] + part * (far[after] - far[before])),
        float(thresholds[before] + part * (thresholds[after] - thresholds[before])),
    )
