"""Results of an evaluation: of one model, and of several on the same images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from lookalike.evaluation.class_frequency import Shots
from lookalike.evaluation.query_duplicates import QueryDuplicates
from lookalike.evaluation.testset import TestSet
from lookalike.metrics import verification
from lookalike.metrics.bootstrap import CONFIDENCE, Difference, Interval
from lookalike.metrics.scores import DEFINITIONS as RETRIEVAL
from lookalike.metrics.scores import PerQuery, Scores
from lookalike.metrics.verification import Verification

NAMES = {"average_precision": "mean_average_precision", "inverse_negative_penalty": "minp"}
"""Metrics of a query whose mean has another name."""

DEFINITIONS = {
    **RETRIEVAL,
    **verification.DEFINITIONS,
    "nmi": "normalised mutual information, 2 I / (H + H), of the classes and of as many clusters,"
    " which k-means finds among all images from one start; depends on the start",
    "intervals": f"{100 * CONFIDENCE:g} % confidence intervals: classes are resampled with all of"
    " their queries (BCa bootstrap, 2,000 resamples, seeded)",
    "p_value": "two-sided, of a test that flips the sign of each class's difference at random",
    "levels": "the same metrics with the coarser classes of a hierarchy: an image should find those"
    " of its class at that level; intervals resample the classes of the labels",
    "hierarchical_average_precision": "H-AP: mean over the queries of the average precision in"
    " which an image counts by the share of the levels that it has in common with the query,"
    " divided by the number of such images (Ramzi et al., Hierarchical Average Precision Training"
    " for Pertinent Image Retrieval, 2022)",
    "unreadable": "images that cannot be read: they are neither queries nor searched",
    "copies": "queries of which the gallery holds a file with the same bytes",
    "in_both": "images that stand in the query and in the gallery list: each is one image with"
    " both roles, and does not find itself",
    "shots": "the queries by the number of images of their class, in training where the run's"
    " training list has classes of the test set, otherwise in the gallery: many more than 100,"
    " medium 20 to 100, few 1 to 19, unseen none",
}


def flat_names(values: dict[str, Any]) -> dict[str, Any]:
    """Metrics of queries under the names of their means."""
    return {NAMES.get(name, name): value for name, value in values.items()}


@dataclass(frozen=True)
class CalibrationCheck:
    """Rates at the threshold of the model's own calibration on these images."""

    threshold: float
    target: float  # the false-accept rate of the calibration
    far: float  # the rate on these images
    tar: float
    far_low: float  # lower end of the calibration's prediction interval for so many classes
    far_high: float

    @property
    def holds(self) -> bool:
        """True if the rate is within the interval."""
        return self.far_low <= self.far <= self.far_high


@dataclass(frozen=True)
class LevelEvaluation:
    """The metrics of one model at a coarser level of classes."""

    scores: Scores
    intervals: dict[str, Interval]


@dataclass(frozen=True)
class Evaluation:
    """The metrics of one model on a test set.

    Attributes:
        per_query: the metrics of each query.
        rows: (M,) int64, the record of each measured image.
        classes: (Q,) int64, the class of each query.
        intervals: metric to its mean and confidence interval.
        shots: the metrics by class frequency.
        shots_by: "training" or "gallery": the set in which classes were counted.
        counts: (C,) int64, those counts.
        copies: queries that find themselves; None where no files were compared.
        unreadable: number of images that were skipped.
        verification: same or different; None where it was not asked for.
        calibration_check: of the model's own threshold; None where there is none.
        nmi: normalised mutual information; None where it was not asked for.
        levels: the same metrics at coarser levels, the finest first.
        hierarchical: H-AP over all levels; None where it was not asked for.
    """

    model: str
    data: TestSet
    scores: Scores
    per_query: PerQuery
    rows: Tensor
    classes: np.ndarray
    intervals: dict[str, Interval]
    shots: tuple[Shots, ...]
    shots_by: str
    counts: np.ndarray
    copies: QueryDuplicates | None
    unreadable: int
    verification: Verification | None = None
    calibration_check: CalibrationCheck | None = None
    nmi: float | None = None
    levels: Mapping[str, LevelEvaluation] = field(default_factory=dict)
    hierarchical: Interval | None = None

    def to_dict(self) -> dict[str, Any]:
        """Metrics that were measured, for JSON: flat ones first, then nested ones."""
        found: dict[str, Any] = {
            "model": self.model,
            "data": self.data.name,
            **self.scores.to_dict(),
            "classes": len(np.unique(self.classes)),
            "unreadable": self.unreadable,
            "in_both": self.data.in_both,
        }
        if self.copies is not None:
            found["copies"] = self.copies.queries
        if self.nmi is not None:
            found["nmi"] = self.nmi
        if self.hierarchical is not None:
            found["hierarchical_average_precision"] = self.hierarchical.value
        found["confidence"] = CONFIDENCE
        found["intervals"] = {name: [one.low, one.high] for name, one in self.intervals.items()}
        if self.hierarchical is not None:
            low, high = self.hierarchical.low, self.hierarchical.high
            found["intervals"]["hierarchical_average_precision"] = [low, high]
        if self.levels:
            found["levels"] = {
                name: {
                    **one.scores.to_dict(),
                    "intervals": {key: [its.low, its.high] for key, its in one.intervals.items()},
                }
                for name, one in self.levels.items()
            }
        found["shots_by"] = self.shots_by
        found["shots"] = {one.name: one.to_dict() for one in self.shots}
        if self.verification is not None:
            found["verification"] = self.verification.to_dict()
        if (check := self.calibration_check) is not None:
            found["shipped_threshold"] = {**asdict(check), "holds": check.holds}
        return found


@dataclass(frozen=True)
class Comparison:
    """Models on the same images; each further one against the first.

    Attributes:
        evaluations: of each model, at least one.
        differences: of each further model: metric to its difference to the first model.
    """

    evaluations: tuple[Evaluation, ...]
    differences: tuple[dict[str, Difference], ...]

    @property
    def verdicts(self) -> list[str]:
        """A sentence for each further model: better, worse, or not different from the first one."""
        first = self.evaluations[0]
        return [
            found[first.scores.primary[0]].describe(first.model, other.model)
            for other, found in zip(self.evaluations[1:], self.differences, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """One model's metrics, or those of each with the differences, for JSON."""
        if len(self.evaluations) == 1:
            return {**self.evaluations[0].to_dict(), "definitions": DEFINITIONS}
        return {
            "models": [one.to_dict() for one in self.evaluations],
            "differences": [
                {
                    "model": other.model,
                    "against": self.evaluations[0].model,
                    "verdict": verdict,
                    **{name: one.to_dict() for name, one in found.items()},
                }
                for other, found, verdict in zip(
                    self.evaluations[1:], self.differences, self.verdicts, strict=True
                )
            ],
            "definitions": DEFINITIONS,
        }
