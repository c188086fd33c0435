"""Measuring a calibration: all pairs twice, first by their cosine, then by their classes too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lookalike.distributed.world import ALONE, World
from lookalike.errors import DataError
from lookalike.metrics.calibration import Calibration, Level
from lookalike.metrics.far_interval import LEAST_EVENTS, ClassPairCounter, far_interval
from lookalike.metrics.likelihood_ratio import Likelihood
from lookalike.metrics.open_set import BestMatches
from lookalike.metrics.pair_scan import PairSet
from lookalike.metrics.protocol import Roles
from lookalike.metrics.verification import FARS, PairCounter, PairCounts

DEFAULT_FAR = 1e-3
CONFIDENCE = 0.95

_MOST_IMAGES = 20_000
_MOST_OF_A_CLASS = 100


def calibrate(
    embeddings: Tensor,
    labels: Tensor,
    *,
    roles: Roles | None = None,
    source: str = "",
    chose_checkpoint: bool = False,
    seen_in_training: int = 0,
    fars: Sequence[float] = FARS,
    default_far: float = DEFAULT_FAR,
    confidence: float = CONFIDENCE,
    prior: float = 0.5,
    seed: int = 0,
    world: World = ALONE,
    device: torch.device | None = None,
) -> Calibration:
    """Measure what cosines mean, on images of classes that the model was not trained on.

    A class counts with 100 images at most and the set with 20,000, drawn by the seed, whole
    classes where it can be: enough for a rate of 1e-6, and a large class does not outweigh others.

    Args:
        embeddings: (N, D) of any floating type and length, finite; on all workers the same.
        labels: (N,) integers.
        roles: who asks, who is searched and who never meets; by default all meet all.
        source: what the images are, in words.
        chose_checkpoint: whether the same classes chose the best checkpoint.
        seen_in_training: how many of the classes were trained on.
        fars: the rates to find thresholds for.
        default_far: the one to use where nothing is said; the next larger one that is supported
            if it is not.
        confidence: of the intervals of the rates.
        prior: the share of same pairs to assume where nothing is said.
        seed: of the drawing.
        world: the workers, who divide the pairs.
        device: where to compute, by default the worker's device.

    Raises:
        DataError: there are too few pairs for any threshold.
    """
    rows = _drawn(labels.cpu(), seed)
    pairs = PairSet.of(
        embeddings[rows.to(embeddings.device)],
        labels.cpu()[rows],
        roles=None if roles is None else roles[rows],
        device=device or world.device,
    )
    counter, best = PairCounter(pairs), BestMatches(pairs)
    for tile in pairs.tiles(world):
        counter.add(tile)
        best.add(tile)
    counts = counter.counts(world)
    levels, unsupported = _levels(pairs, counts, sorted(fars, reverse=True), confidence, world)
    if not levels:
        raise DataError(
            f"no threshold can be measured: {len(pairs):,} images make {counts.same.sum():,} pairs "
            f"of one class and {counts.different.sum():,} of different ones, too few for a "
            f"false-accept rate of {max(fars):g}; more classes, with two images or more, are needed"
        )
    enough = [level.target for level in levels if level.target >= default_far * (1 - 1e-6)]
    return Calibration(
        source=source,
        chose_checkpoint=chose_checkpoint,
        seen_in_training=seen_in_training,
        images=len(pairs),
        classes=int(pairs.classes[-1]) + 1,
        same_pairs=int(counts.same.sum()),
        different_pairs=int(counts.different.sum()),
        levels=levels,
        unsupported=unsupported,
        default_far=enough[-1] if enough else levels[0].target,
        likelihood=Likelihood.fit(counts),
        prior=prior,
        open_set=best.open_set(world),
        confidence=confidence,
    )


def _levels(
    pairs: PairSet, counts: PairCounts, fars: Sequence[float], confidence: float, world: World
) -> tuple[tuple[Level, ...], tuple[float, ...]]:
    """The levels that the pairs support, and the targets that they do not."""
    points = [counts.operating(far) for far in fars] if counts.same.any() else []
    supported = [point for point in points if point is not None]
    by_class = ClassPairCounter(pairs, [point.threshold for point in supported])
    for tile in pairs.tiles(world) if supported else ():
        by_class.add(tile)
    found = by_class.counts(world)
    levels = []
    for number, point in enumerate(supported):
        if not point.false_accepts:  # ties, of a model that has collapsed
            continue
        spread = found.spread(number)
        if spread.events < LEAST_EVENTS:
            continue
        low, high = far_interval(point.far, spread, confidence=confidence)
        levels.append(
            Level(
                target=point.target,
                threshold=point.threshold,
                far=point.far,
                far_low=low,
                far_high=high,
                tar=point.tar,
                false_accepts=point.false_accepts,
                spread=spread,
            )
        )
    reached = {level.target for level in levels}
    return tuple(levels), tuple(far for far in fars if far not in reached)


def _drawn(labels: Tensor, seed: int) -> Tensor:
    """The rows to measure, (M,) int64, ascending; all of them if they are not too many."""
    generator = np.random.default_rng(seed)
    _, classes, sizes = np.unique(labels.numpy(), return_inverse=True, return_counts=True)
    if len(labels) <= _MOST_IMAGES and sizes.max() <= _MOST_OF_A_CLASS:
        return torch.arange(len(labels))
    turn = generator.permutation(len(sizes))  # of each class
    # By the turn of the class, and within it by chance.
    order = np.lexsort([generator.random(len(classes)), turn[classes]])
    starts = np.cumsum(np.bincount(turn[classes])) - np.bincount(turn[classes])
    place = np.arange(len(order)) - starts[turn[classes[order]]]
    kept = order[place < _MOST_OF_A_CLASS][:_MOST_IMAGES]
    return torch.from_numpy(np.sort(kept))
