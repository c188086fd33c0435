"""The cosine from which two images show the same thing, measured on classes held out of training.

A calibration belongs to the weights that it was measured with, and lies beside them as
`calibration.json`. It holds, for several false-accept rates (FAR), the threshold that keeps the
rate on the calibration's pairs, and the interval in which the rate of new classes is to be
expected (`lookalike.metrics.far_interval`); the probability of "the same" given a cosine
(`lookalike.metrics.likelihood_ratio`); and thresholds on the best match of a search
(`lookalike.metrics.open_set`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel

from lookalike import storage
from lookalike.errors import RunError
from lookalike.metrics.far_interval import Spread, far_interval
from lookalike.metrics.likelihood_ratio import Likelihood
from lookalike.metrics.open_set import OpenSet
from lookalike.storage import Place
from lookalike.storage.checked_json import Cosine, Count, Share, read_checked

CALIBRATION_FILE = "calibration.json"

_FORMAT = "lookalike calibration 1"


class _Kind(BaseModel):
    """What a file is, whatever else it holds."""

    format: Literal["lookalike calibration 1"]


@dataclass(frozen=True)
class Level:
    """A threshold for one false-accept rate.

    Attributes:
        target: the rate that was asked for.
        threshold: two images are the same thing if their cosine is not below it.
        far: the rate on the calibration's pairs, at most the target.
        far_low: the least that is to be expected on as many new classes.
        far_high: the most.
        tar: the share of the same pairs that pass.
        false_accepts: how many of the different pairs pass.
        spread: how the rate varies from one set of classes to another.
    """

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
    """What a model's cosines mean.

    Attributes:
        source: what it was measured on, in words.
        chose_checkpoint: whether the same classes also chose the best checkpoint; then the
            rates may be a little too good.
        seen_in_training: how many of the classes were trained on; rates on those are too good.
        images: how many were measured.
        classes: of how many classes.
        same_pairs: pairs of one class.
        different_pairs: pairs of two.
        levels: by falling rate.
        unsupported: rates for which there are too few pairs of images, or of classes.
        default_far: the target whose threshold is `threshold`.
        likelihood: same against different, by the cosine.
        prior: the share of same pairs that `probability` assumes where nothing is said.
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
    likelihood: Likelihood
    prior: Share
    open_set: OpenSet | None
    confidence: Share

    def level(self, far: float | None = None) -> Level:
        """The threshold for a false-accept rate, and what is known of it.

        Args:
            far: one of the targets; None for `default_far`.

        Raises:
            ValueError: there is no such level.
        """
        far = self.default_far if far is None else far
        for level in self.levels:
            if abs(level.target - far) <= 1e-6 * far:
                return level
        choices = ", ".join(f"{level.target:g}" for level in self.levels)
        raise ValueError(f"no threshold for a false-accept rate of {far:g}; there are {choices}")

    @property
    def threshold(self) -> float:
        """The cosine from which two images are the same thing, at `default_far`."""
        return self.level().threshold

    @property
    def reject_threshold(self) -> float | None:
        """A query whose best match is below it shows something unknown; see `open_set`."""
        return None if self.open_set is None else self.open_set.threshold()

    def far_interval(self, far: float | None = None, *, classes: int) -> tuple[float, float]:
        """Where the rate of a level lies on a new set of so many classes."""
        level = self.level(far)
        return far_interval(level.far, level.spread, classes=classes, confidence=self.confidence)

    def probability(self, cosine: float | np.ndarray, prior: float | None = None) -> np.ndarray:
        """The probability that two images are of the same thing.

        Args:
            cosine: of one pair, or of many.
            prior: the share of same pairs among those that are asked about, between 0 and 1.
        """
        return self.likelihood.probability(cosine, self.prior if prior is None else prior)

    def even_prior(self, cosine: float) -> float:
        """The prior at which two images of this cosine are as probably the same as different."""
        return 1 - float(self.likelihood.probability(cosine, 0.5))

    def search_prior(self, gallery: int) -> float:
        """The prior of a match in a gallery of so many images.

        Each image of a gallery is one more chance of a wrong match, so the prior falls with their
        number: it is the one at which a best match at the threshold of `open_set` for this gallery
        is as probably the same as different. In a gallery too large for what was measured, the odds
        fall as the number of images rises. It is never above `prior`.
        """
        if self.open_set is None or gallery <= 0:
            return self.prior
        known = min(float(gallery), self.open_set.largest_gallery())
        even = self.even_prior(self.open_set.threshold(gallery=known))
        odds = even / (1 - even) * known / gallery
        return min(self.prior, odds / (1 + odds))

    def cosine_of(self, prior: float) -> float | None:
        """The least cosine from which two images are rather the same than different, to 1e-6.

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
        """Plain values, for JSON; the thresholds that most will want come first."""
        return {
            "format": _FORMAT,
            "threshold": self.threshold,
            "reject_threshold": self.reject_threshold,
            **asdict(self),
        }

    @classmethod
    def from_json(cls, text: str | bytes, place: str) -> Calibration:
        """What is in a calibration.json.

        Raises:
            RunError: it is something else; `place`, the key and its value are named.
        """
        read_checked(text, _Kind, place)
        found = read_checked(text, cls, place)
        try:
            found.level()
            found.likelihood.check()
        except ValueError as error:
            raise RunError(f"{place}: not a calibration: {error}") from None
        return found

    def save(self, folder: Place) -> Path:
        """Write `calibration.json` into a model folder, as a whole."""
        path = storage.path_of(folder) / CALIBRATION_FILE
        storage.write_bytes(str(path), (json.dumps(self.to_dict(), indent=1) + "\n").encode())
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
                reason = (error.strerror or str(error)).lower()
                raise RunError(f"{path}: cannot be read: {reason}") from None
            return cls.from_json(text, str(path))
        return None
