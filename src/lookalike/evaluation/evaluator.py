"""Measurement of the embeddings of a test set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from lookalike.distributed.world import World
from lookalike.errors import ConfigError, DataError, check_fields
from lookalike.evaluation.class_frequency import by_shots
from lookalike.evaluation.query_duplicates import find_duplicates
from lookalike.evaluation.result import (
    CalibrationCheck,
    Comparison,
    Evaluation,
    LevelEvaluation,
    flat_names,
)
from lookalike.evaluation.testset import TestSet
from lookalike.metrics.bootstrap import Interval, differences, mean_intervals
from lookalike.metrics.calibration import Calibration
from lookalike.metrics.clustering import nmi
from lookalike.metrics.hierarchical_precision import hierarchical_precision
from lookalike.metrics.protocol import Roles, first_class
from lookalike.metrics.rank_metrics import RECALL
from lookalike.metrics.scores import PerQuery, Scores, measure_queries
from lookalike.metrics.verification import PairCounts, count_pairs, verify

MOST_K = 10**9

_OF_SHOTS = ("recall_at_1", "map_at_r")


class MetricKeywords(TypedDict, total=False):
    """The fields of `MetricOptions` as keywords of a command."""

    recall: int | Iterable[int]
    precision: int | Iterable[int]
    full: bool
    verification: bool
    nmi: bool
    seed: int


@dataclass(frozen=True)
class MetricOptions:
    """The metrics to measure.

    Attributes:
        recall: the k of Recall@k, one or several.
        precision: the k of precision@k, one or several.
        full: measure mean average precision and mINP too, which need the whole ranking.
        verification: measure same-or-different too: ROC, TAR at several FARs, and the rates at the
            threshold of the model's own calibration.
        nmi: cluster the images, and measure normalised mutual information with the classes too.
        seed: of the resampling for the intervals.

    Raises:
        ConfigError: a field is not of its type, or a k is none.
    """

    recall: tuple[int, ...] = RECALL
    precision: tuple[int, ...] = ()
    full: bool = False
    verification: bool = False
    nmi: bool = False
    seed: int = 0

    @classmethod
    def of(cls, **keywords: Unpack[MetricKeywords]) -> MetricOptions:
        """With one k or several for `recall` and `precision`."""
        ks: dict[str, Any] = {
            name: _one_or_several(value)
            for name, value in keywords.items()
            if name in ("recall", "precision")
        }
        return cls(**{**keywords, **ks})

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.recall:
            raise ConfigError("no k: give one at least, as in --k 1,5,10")
        for k in (*self.recall, *self.precision):
            if isinstance(k, bool) or not isinstance(k, Integral) or not 1 <= k <= MOST_K:
                raise ConfigError(
                    f"k = {k!r}: every k is a number from 1 to {MOST_K:,}, as in --k 1,5"
                )


def _one_or_several(values: Any) -> tuple[Any, ...]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        return (values,)
    return tuple(values)


@dataclass(frozen=True)
class ModelVectors:
    """A model's embeddings of a test set."""

    model: str
    vectors: Tensor  # (M, D) on the CPU
    rows: Tensor  # (M,) int64, ascending: their records
    calibration: Calibration | None = None  # the model's own; None where there is none
    has_files: bool = True  # whether the records' images can be read


def measure(
    data: TestSet,
    model: ModelVectors,
    options: MetricOptions,
    *,
    training_counts: dict[str, int] | None,
    world: World,
) -> Evaluation:
    """All metrics of one model; the same on every worker.

    `training_counts` are the images of each label that the model was trained on, None if unknown.

    Raises:
        DataError: nothing can be measured.
    """
    vectors, labels, roles = _ready(data, model, world)
    found = _measured(vectors, labels, roles, options, world)
    classes = first_class(labels)[found.rows].numpy()
    gallery = None if roles is None else roles.gallery
    counts, counted = _counts(data, labels, gallery, training_counts)
    sampled = {name: column for name, column in found.values.items() if name in _OF_SHOTS}
    verification = check = None
    if options.verification:
        pairs = count_pairs(vectors, labels, roles=roles, world=world)
        verification = verify(pairs)
        if model.calibration is not None:
            check = _check_calibration(model.calibration, pairs, len(first_class(labels).unique()))
    information = None
    if options.nmi and labels.ndim == 2:
        raise ConfigError(
            "--nmi compares clusters with classes, and these images have several each; leave it out"
        )
    if options.nmi:
        one = torch.zeros(1, dtype=torch.float64, device=world.device)
        if world.is_main:
            one += nmi(vectors, labels, seed=options.seed)
        information = float(world.broadcast(one))
    levels, hierarchical = _levels(data, model, vectors, labels, roles, found, options, world)
    copies = None
    if model.has_files and world.is_main:
        records = [data.catalog.records[row] for row in model.rows.tolist()]
        copies = find_duplicates(records, model.vectors, roles)
    return Evaluation(
        model=model.model,
        data=data,
        scores=Scores.of(found, len(labels), roles),
        per_query=found,
        rows=model.rows,
        classes=classes,
        intervals=flat_names(mean_intervals(found.values, classes, seed=options.seed)),
        shots=by_shots(sampled, classes, counts, seed=options.seed),
        shots_by=counted,
        counts=counts,
        copies=copies,
        unreadable=len(data.catalog) - len(model.rows),
        verification=verification,
        calibration_check=check,
        nmi=information,
        levels=levels,
        hierarchical=hierarchical,
    )


def measure_scores(
    data: TestSet, model: ModelVectors, options: MetricOptions, *, world: World
) -> Scores:
    """The retrieval scores alone.

    Raises:
        DataError: nothing can be measured.
    """
    vectors, labels, roles = _ready(data, model, world)
    return Scores.of(_measured(vectors, labels, roles, options, world), len(labels), roles)


def compare_evaluations(evaluations: Sequence[Evaluation], seed: int = 0) -> Comparison:
    """Each further model against the first; all have measured the same queries."""
    first = evaluations[0]
    for other in evaluations[1:]:
        assert torch.equal(first.rows, other.rows)
        assert torch.equal(first.per_query.rows, other.per_query.rows)
    found = [
        differences(first.per_query.values, other.per_query.values, first.classes, seed=seed)
        for other in evaluations[1:]
    ]
    return Comparison(tuple(evaluations), tuple(map(flat_names, found)))


def common_images(models: Sequence[ModelVectors]) -> list[ModelVectors]:
    """The models with the images that all of them have."""
    kept = models[0].rows
    for model in models[1:]:
        kept = kept[torch.isin(kept, model.rows)]
    return [
        replace(one, vectors=one.vectors[torch.isin(one.rows, kept)], rows=kept) for one in models
    ]


def _ready(data: TestSet, model: ModelVectors, world: World) -> tuple[Tensor, Tensor, Roles | None]:
    """Vectors on the device, labels, and roles, of the images that have a vector."""
    if not len(model.rows):
        raise DataError(f"{data.name}: none of its {len(data.catalog):,} images can be read")
    labels = torch.from_numpy(data.catalog.all_ids)[model.rows]
    roles = None if data.roles is None else data.roles[model.rows]
    return model.vectors.to(world.device), labels, roles


def _measured(
    vectors: Tensor, labels: Tensor, roles: Roles | None, options: MetricOptions, world: World
) -> PerQuery:
    return measure_queries(
        vectors,
        labels,
        roles=roles,
        recall=options.recall,
        precision=options.precision,
        full=options.full,
        world=world,
    )


def _levels(
    data: TestSet,
    model: ModelVectors,
    vectors: Tensor,
    labels: Tensor,
    roles: Roles | None,
    fine: PerQuery,
    options: MetricOptions,
    world: World,
) -> tuple[dict[str, LevelEvaluation], Interval | None]:
    """Metrics at the levels above the classes, and H-AP over all, if everything is ranked."""
    first = first_class(labels)
    found, coarser = {}, []
    for level in data.catalog.levels:
        coarser.append(torch.from_numpy(level.coarser(data.catalog.all_ids))[model.rows])
        measured = _measured(vectors, coarser[-1], roles, options, world)
        classes = first[measured.rows].numpy()
        found[level.name] = LevelEvaluation(
            Scores.of(measured, len(labels), roles),
            flat_names(mean_intervals(measured.values, classes, seed=options.seed)),
        )
    if not (found and options.full):
        return found, None
    values = hierarchical_precision(
        vectors, [labels, *coarser], fine.rows, roles=roles, world=world, device=world.device
    )
    means = mean_intervals({"h": values}, first[fine.rows].numpy(), seed=options.seed)
    return found, means["h"]


def _counts(
    data: TestSet, labels: Tensor, gallery: Tensor | None, training: dict[str, int] | None
) -> tuple[np.ndarray, str]:
    """Images of each class, (C,), and the set in which they were counted."""
    names = data.catalog.classes.names
    if training is not None and not training.keys().isdisjoint(names):
        return np.array([training.get(name, 0) for name in names]), "training"
    searched = labels if gallery is None else labels[gallery]
    searched = searched[searched >= 0]
    return torch.bincount(searched, minlength=len(names)).numpy(), "gallery"


def _check_calibration(
    calibration: Calibration, pairs: PairCounts, classes: int
) -> CalibrationCheck:
    level = calibration.level()
    same, different = pairs.at(level.threshold)
    low, high = calibration.far_interval(classes=classes)
    return CalibrationCheck(
        threshold=level.threshold,
        target=level.target,
        far=different / int(pairs.different.sum()),
        tar=same / int(pairs.same.sum()),
        far_low=low,
        far_high=high,
    )
