"""The cosine from which two images show the same thing, measured on classes held out of training.

A calibration belongs to the weights that it was measured with, and lies beside them as
`calibration.json`. It holds, for several false-accept rates (FAR), the threshold that keeps the
rate on the calibration's pairs, and a prediction interval of the rate on new classes
(`far_interval`); the probability of "the same" given a cosine (`likelihood_ratio`); and thresholds
on the best match of a search (`open_set`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor

from lookalike import storage
from lookalike.distributed.world import ALONE, World
from lookalike.errors import DataError, RunError, check_integer, check_number, reason_of
from lookalike.metrics.bootstrap import CONFIDENCE
from lookalike.metrics.far_interval import LEAST_EVENTS, ClassPairCounter, Spread, far_interval
from lookalike.metrics.likelihood_ratio import LikelihoodRatio
from lookalike.metrics.open_set import BestMatches, OpenSet, check_share
from lookalike.metrics.pair_scan import PairSet
from lookalike.metrics.protocol import Roles, first_class
from lookalike.metrics.verification import FARS, PairCounter, PairCounts
from lookalike.storage import Place
from lookalike.storage.checked_json import Cosine, Count, Share, read_checked
from lookalike.storage.local_files import local_folder

CALIBRATION_FILE = "calibration.json"

DEFAULT_FAR = 1e-3
"""The rate whose threshold is the default; the next larger one that is supported if it is not."""

PRIOR = 0.5
"""The default share of same pairs."""

MOST_IMAGES = 20_000
"""Images that are measured; enough for a rate of 1e-6."""

MOST_OF_A_CLASS = 100
"""Images of a class that are measured, so that a large class does not outweigh others."""

_FORMAT = "lookalike calibration 1"


class _Kind(BaseModel):
    """The format of a file, whatever else it holds."""

    format: Literal["lookalike calibration 1"]


@dataclass(frozen=True)
class Level:
    """An operating point, with the prediction interval of its rate on as many new classes."""

    target: Share
    threshold: Cosine
    far: Share
    far_low: Share
    far_high: Share
    tar: Share
    false_accepts: Count
    spread: Spread


@dataclass(frozen=True)
class Calibration:
    """Thresholds and probabilities for a model's cosines.

    Attributes:
        source: the images that were measured, in words.
        chose_checkpoint: whether the same classes also chose the best checkpoint; then the
            rates may be a little too low.
        seen_in_training: number of classes that were trained on; rates on those are too low.
        images: number of images measured.
        classes: number of their classes.
        same_pairs: pairs of one class.
        different_pairs: pairs of two.
        levels: by falling rate.
        unsupported: rates for which there are too few pairs of images, or of classes.
        default_far: the target whose threshold is `threshold`.
        likelihood: same against different, by the cosine.
        prior: the default share of same pairs of `probability`.
        open_set: thresholds on the best match of a search; None with too few queries.
        confidence: of the intervals.
    """

    source: str
    chose_checkpoint: bool
    seen_in_training: Count
    images: Count
    classes: Count
    same_pairs: Count
    different_pairs: Count
    levels: tuple[Level, ...]
    unsupported: tuple[Share, ...]
    default_far: Share
    likelihood: LikelihoodRatio
    prior: Share
    open_set: OpenSet | None
    confidence: Share

    def level(self, far: float | None = None) -> Level:
        """The level of a target rate, by default of `default_far`.

        Raises:
            DataError: there is no such level.
        """
        far = self.default_far if far is None else far
        check_number("far", far, 0)
        for level in self.levels:
            if abs(level.target - far) <= 1e-6 * far:
                return level
        choices = ", ".join(f"{level.target:g}" for level in self.levels)
        raise DataError(f"no threshold for a false-accept rate of {far:g}; there are {choices}")

    @property
    def threshold(self) -> float:
        """The cosine from which two images are the same thing, at `default_far`."""
        return self.level().threshold

    @property
    def reject_threshold(self) -> float | None:
        """The cosine below which the best match of a query means that it is unknown."""
        return None if self.open_set is None else self.open_set.threshold()

    def far_interval(self, far: float | None = None, *, classes: int) -> tuple[float, float]:
        """Prediction interval of the rate of a level on a new set of so many classes.

        Raises:
            LookalikeError: there is no such level, or `classes` is not an integer from 1 on.
        """
        check_integer("classes", classes, 1)
        level = self.level(far)
        return far_interval(level.far, level.spread, classes=classes, confidence=self.confidence)

    def probability(self, cosine: float | np.ndarray, prior: float | None = None) -> np.ndarray:
        """The probability that two images are of the same thing, for one cosine or many.

        `prior` is the share of same pairs among those in question, between 0 and 1.

        Raises:
            DataError: the prior is none, or a cosine is no number.
        """
        prior = self.prior if prior is None else prior
        check_share("prior", prior)
        try:
            cosines = np.asarray(cosine, np.float64)
        except (TypeError, ValueError):
            cosines = np.array(np.nan)
        if np.isnan(cosines).any():
            shown = "of several" if cosines.ndim else repr(cosine)
            raise DataError(f"cosine {shown} is not a number")
        return self.likelihood.probability(cosines, prior)

    def even_prior(self, cosine: float) -> float:
        """The prior at which two images of this cosine are as probably the same as different."""
        return 1 - float(self.likelihood.probability(cosine, 0.5))

    def search_prior(self, gallery: int) -> float:
        """The prior of a match in a gallery of so many images.

        Each image of a gallery is one more chance of a wrong match, so the prior falls with their
        number: it is the one at which a best match at the threshold of `open_set` for this gallery
        is as probably the same as different. In a gallery larger than the measurement supports, the
        odds fall as the number of images rises. It is never above `prior`.
        """
        check_number("gallery", gallery, 0)
        if self.open_set is None or gallery == 0:
            return self.prior
        known = min(float(gallery), self.open_set.largest_gallery())
        even = self.even_prior(self.open_set.threshold(gallery=known))
        odds = even / (1 - even) * known / gallery
        return min(self.prior, odds / (1 + odds))

    def cosine_of(self, prior: float) -> float | None:
        """The lowest cosine at which two images are more probably the same than not, to 1e-6.

        None where no cosine is enough.
        """
        low, high = -1.0, 1.0
        if self.probability(high, prior) < 0.5:
            return None
        while high - low > 1e-6:
            middle = (low + high) / 2
            low, high = (low, middle) if self.probability(middle, prior) >= 0.5 else (middle, high)
        return high

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; the default thresholds come first."""
        return {
            "format": _FORMAT,
            "threshold": self.threshold,
            "reject_threshold": self.reject_threshold,
            **asdict(self),
        }

    @classmethod
    def from_json(cls, text: str | bytes, place: str) -> Calibration:
        """The content of a calibration.json.

        Raises:
            RunError: it is something else; `place`, the key and its value are named.
        """
        read_checked(text, _Kind, place)
        found = read_checked(text, cls, place)
        try:
            found.level()
            found.likelihood.check()
        except (ValueError, DataError) as error:
            raise RunError(f"{place}: not a calibration: {error}") from None
        return found

    def save(self, folder: Place) -> Path:
        """Write `calibration.json` into a model folder of this machine, as a whole."""
        path = local_folder(folder, "the place of a calibration") / CALIBRATION_FILE
        storage.write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")
        return path

    @classmethod
    def load(cls, folder: Place) -> Calibration | None:
        """The calibration of a run or model folder of this machine; None where there is none.

        Raises:
            RunError: the file is broken.
        """
        place = storage.path_of(folder)
        for path in (place / CALIBRATION_FILE, place / "model" / CALIBRATION_FILE):
            if not path.exists():
                continue
            try:
                text = path.read_bytes()
            except OSError as error:
                reason = reason_of(error, str(error))
                raise RunError(f"{path}: cannot be read: {reason}") from None
            return cls.from_json(text, str(path))
        return None


def fit_calibration(
    embeddings: Tensor,
    labels: Tensor,
    *,
    roles: Roles | None = None,
    source: str = "",
    chose_checkpoint: bool = False,
    seen_in_training: int = 0,
    world: World = ALONE,
    device: torch.device | None = None,
) -> Calibration:
    """Measure a calibration: all pairs twice, first by their cosine, then by their classes too.

    At most `MOST_OF_A_CLASS` images of a class and `MOST_IMAGES` in all are drawn with a fixed
    seed, whole classes where possible. The (N, D) embeddings are finite, of classes that the model
    was not trained on, and on all workers the same.

    Raises:
        DataError: there are too few pairs for any threshold.
    """
    rows = draw_rows(labels.cpu(), seed=0)
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
    levels = _levels(pairs, counts, sorted(FARS, reverse=True), world)
    if not levels:
        raise DataError(
            f"no threshold can be measured: {len(pairs):,} images make {counts.same.sum():,} pairs "
            f"of one class and {counts.different.sum():,} of different ones, too few for a "
            f"false-accept rate of {max(FARS):g}; more classes, with two images or more, are needed"
        )
    reached = {level.target for level in levels}
    enough = [level.target for level in levels if level.target >= DEFAULT_FAR * (1 - 1e-6)]
    return Calibration(
        source=source,
        chose_checkpoint=chose_checkpoint,
        seen_in_training=seen_in_training,
        images=len(pairs),
        classes=int(pairs.classes[-1]) + 1,
        same_pairs=int(counts.same.sum()),
        different_pairs=int(counts.different.sum()),
        levels=levels,
        unsupported=tuple(far for far in sorted(FARS, reverse=True) if far not in reached),
        default_far=enough[-1] if enough else levels[0].target,
        likelihood=LikelihoodRatio.fit(counts),
        prior=PRIOR,
        open_set=best.open_set(world),
        confidence=CONFIDENCE,
    )


def _levels(
    pairs: PairSet, counts: PairCounts, fars: Sequence[float], world: World
) -> tuple[Level, ...]:
    """The levels that the pairs support."""
    points = [counts.operating_point(far) for far in fars] if counts.same.any() else []
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
        low, high = far_interval(point.far, spread)
        levels.append(Level(**asdict(point), far_low=low, far_high=high, spread=spread))
    return tuple(levels)


def draw_rows(labels: Tensor, seed: int) -> Tensor:
    """The rows to measure, (M,) int64, ascending; all of them if they are not too many."""
    generator = np.random.default_rng(seed)
    first = first_class(labels).numpy()
    _, classes, sizes = np.unique(first, return_inverse=True, return_counts=True)
    if len(labels) <= MOST_IMAGES and sizes.max() <= MOST_OF_A_CLASS:
        return torch.arange(len(labels))
    turn = generator.permutation(len(sizes))  # of each class
    # By the turn of the class, and in random order within it.
    order = np.lexsort([generator.random(len(classes)), turn[classes]])
    starts = np.cumsum(np.bincount(turn[classes])) - np.bincount(turn[classes])
    place = np.arange(len(order)) - starts[turn[classes[order]]]
    kept = order[place < MOST_OF_A_CLASS][:MOST_IMAGES]
    return torch.from_numpy(np.sort(kept))
