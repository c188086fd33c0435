"""The cosine from which two images show the same thing, measured on classes held out of training.

A calibration belongs to the weights that it was measured with, and lies beside them as
`calibration.json`. It holds, for several false-accept rates (FAR), the threshold that keeps the
rate on the calibration's pairs, and the interval in which the rate of new classes is to be
expected (`lookalike.retrieval.class_pairs`); the probability of "the same" given a cosine
(`lookalike.retrieval.likelihood`); and thresholds on the best match of a search
(`lookalike.retrieval.open_set`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lookalike import storage
from lookalike.errors import RunError
from lookalike.retrieval.class_pairs import Spread, far_interval
from lookalike.retrieval.likelihood import Likelihood
from lookalike.retrieval.open_set import OpenSet, Rejection

CALIBRATION_FILE = "calibration.json"

_FORMAT = "lookalike calibration 1"


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

    target: float
    threshold: float
    far: float
    far_low: float
    far_high: float
    tar: float
    false_accepts: int
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
    seen_in_training: int
    images: int
    classes: int
    same_pairs: int
    different_pairs: int
    levels: tuple[Level, ...]
    unsupported: tuple[float, ...]
    default_far: float
    likelihood: Likelihood
    prior: float
    open_set: OpenSet | None
    confidence: float

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

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; the thresholds that most will want come first."""
        return {
            "format": _FORMAT,
            "threshold": self.threshold,
            "reject_threshold": self.reject_threshold,
            **asdict(self),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any], place: str = CALIBRATION_FILE) -> Calibration:
        """What `to_dict` gave.

        Raises:
            RunError: it is something else; `place` is named.
        """
        try:
            if values["format"] != _FORMAT:
                raise RunError(f"{place}: its format is {values['format']!r}, not {_FORMAT!r}")
            left = {k: v for k, v in values.items() if k in cls.__dataclass_fields__}
            likelihood = Likelihood(*(tuple(map(float, v)) for v in left["likelihood"].values()))
            open_set = left["open_set"]
            if open_set is not None:
                rejections = tuple(Rejection(**one) for one in open_set["rejections"])
                open_set = OpenSet(**{**open_set, "rejections": rejections})
            levels = tuple(
                Level(**{**level, "spread": Spread(**level["spread"])}) for level in left["levels"]
            )
            left |= {"likelihood": likelihood, "open_set": open_set, "levels": levels}
            found = cls(**{**left, "unsupported": tuple(left["unsupported"])})
            found.level()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(f"{place}: not a calibration: {error}") from None
        return found

    @classmethod
    def from_json(cls, text: str, place: str) -> Calibration:
        """What is in a calibration.json.

        Raises:
            RunError: it is something else; `place` is named.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise RunError(f"{place}: not a calibration: {error}") from None
        return cls.from_dict(values, place)

    def save(self, folder: str | Path) -> Path:
        """Write `calibration.json` into a model folder, as a whole."""
        path = storage.path_of(folder) / CALIBRATION_FILE
        storage.write_bytes(str(path), (json.dumps(self.to_dict(), indent=1) + "\n").encode())
        return path

    @classmethod
    def load(cls, folder: str | Path) -> Calibration | None:
        """The calibration of a run or model folder of this machine; None where there is none.

        Raises:
            RunError: the file is broken.
        """
        place = storage.path_of(folder)
        for path in (place / CALIBRATION_FILE, place / "model" / CALIBRATION_FILE):
            if not path.exists():
                continue
            return cls.from_json(path.read_text("utf-8"), str(path))
        return None
