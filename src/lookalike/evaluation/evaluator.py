"""Measuring embeddings of a test set: everything that is asked for, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lookalike.distributed.world import World
from lookalike.errors import DataError
from lookalike.evaluation.class_frequency import by_shots
from lookalike.evaluation.query_duplicates import find_copies
from lookalike.evaluation.result import Comparison, Evaluation, Shipped, flat_names
from lookalike.evaluation.testset import TestSet
from lookalike.metrics.bootstrap import differences, mean_intervals
from lookalike.metrics.calibration import Calibration
from lookalike.metrics.clustering import nmi
from lookalike.metrics.protocol import Roles
from lookalike.metrics.rank_metrics import RECALL
from lookalike.metrics.scores import PerQuery, Scores, measure_queries
from lookalike.metrics.verification import PairCounts, count_pairs, verify

_OF_SHOTS = ("recall_at_1", "map_at_r")


@dataclass(frozen=True)
class Wanted:
    """What to measure.

    Attributes:
        recall: the k of Recall@k.
        precision: the k of precision@k.
        full: mean average precision and mINP too.
        verification: same or different too.
        nmi: normalised mutual information too.
        seed: of the resampling.
    """

    recall: tuple[int, ...] = RECALL
    precision: tuple[int, ...] = ()
    full: bool = False
    verification: bool = False
    nmi: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Subject:
    """A model's embeddings of a test set.

    Attributes:
        model: its name.
        vectors: (M, D) on the CPU.
        rows: (M,) int64, ascending: which record each one is.
        calibration: the model's own; None where there is none.
        has_files: whether the records' images can be read.
    """

    model: str
    vectors: Tensor
    rows: Tensor
    calibration: Calibration | None = None
    has_files: bool = True


def measure(
    data: TestSet,
    subject: Subject,
    wanted: Wanted,
    *,
    training_counts: dict[str, int] | None,
    world: World,
) -> Evaluation:
    """All figures of one model; the same on every worker.

    Args:
        data: the images.
        subject: their embeddings.
        wanted: what to measure.
        training_counts: images of each label that the model was trained on; None if not known.
        world: the workers.

    Raises:
        DataError: nothing can be measured.
    """
    vectors, labels, roles = _ready(data, subject, world)
    found = _measured(vectors, labels, roles, wanted, world)
    classes = labels[found.rows].numpy()
    gallery = None if roles is None else roles.gallery
    counts, counted = _counts(data, labels, gallery, training_counts)
    sampled = {name: column for name, column in found.values.items() if name in _OF_SHOTS}
    verification = shipped = None
    if wanted.verification:
        pairs = count_pairs(vectors, labels, roles=roles, world=world)
        verification = verify(pairs)
        if subject.calibration is not None:
            shipped = _shipped(subject.calibration, pairs, len(labels.unique()))
    information = None
    if wanted.nmi:
        one = torch.zeros(1, dtype=torch.float64, device=world.device)
        if world.is_main:
            one += nmi(vectors, labels, seed=wanted.seed)
        information = float(world.broadcast(one))
    copies = None
    if subject.has_files and world.is_main:
        records = [data.catalog.records[row] for row in subject.rows.tolist()]
        copies = find_copies(records, subject.vectors, roles)
    return Evaluation(
        model=subject.model,
        data=data,
        scores=Scores.of(found, len(labels), roles),
        per_query=found,
        rows=subject.rows,
        classes=classes,
        intervals=flat_names(mean_intervals(found.values, classes, seed=wanted.seed)),
        shots=by_shots(sampled, classes, counts, seed=wanted.seed),
        shots_by=counted,
        counts=counts,
        copies=copies,
        unreadable=len(data.catalog) - len(subject.rows),
        verification=verification,
        shipped=shipped,
        nmi=information,
    )


def scored(data: TestSet, subject: Subject, wanted: Wanted, *, world: World) -> Scores:
    """The retrieval scores alone.

    Raises:
        DataError: nothing can be measured.
    """
    vectors, labels, roles = _ready(data, subject, world)
    return Scores.of(_measured(vectors, labels, roles, wanted, world), len(labels), roles)


def compared(evaluations: Sequence[Evaluation], seed: int = 0) -> Comparison:
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


def common(subjects: Sequence[Subject]) -> list[Subject]:
    """The subjects with the images that all of them have."""
    kept = subjects[0].rows
    for subject in subjects[1:]:
        kept = kept[torch.isin(kept, subject.rows)]
    return [
        Subject(
            one.model,
            one.vectors[torch.isin(one.rows, kept)],
            kept,
            one.calibration,
            one.has_files,
        )
        for one in subjects
    ]


def _ready(data: TestSet, subject: Subject, world: World) -> tuple[Tensor, Tensor, Roles | None]:
    """Vectors on the device, labels, and roles, of the images that have a vector."""
    if not len(subject.rows):
        raise DataError(f"{data.name}: none of its {len(data.catalog):,} images can be read")
    labels = torch.from_numpy(data.catalog.class_ids)[subject.rows]
    roles = None if data.roles is None else data.roles[subject.rows]
    return subject.vectors.to(world.device), labels, roles


def _measured(
    vectors: Tensor, labels: Tensor, roles: Roles | None, wanted: Wanted, world: World
) -> PerQuery:
    return measure_queries(
        vectors,
        labels,
        roles=roles,
        recall=wanted.recall,
        precision=wanted.precision,
        full=wanted.full,
        world=world,
    )


def _counts(
    data: TestSet, labels: Tensor, gallery: Tensor | None, training: dict[str, int] | None
) -> tuple[np.ndarray, str]:
    """Images of each class, (C,), and where they were counted."""
    names = data.catalog.classes.names
    if training is not None and not training.keys().isdisjoint(names):
        return np.array([training.get(name, 0) for name in names]), "training"
    searched = labels if gallery is None else labels[gallery]
    return torch.bincount(searched, minlength=len(names)).numpy(), "gallery"


def _shipped(calibration: Calibration, pairs: PairCounts, classes: int) -> Shipped:
    level = calibration.level()
    same, different = pairs.at(level.threshold)
    low, high = calibration.far_interval(classes=classes)
    return Shipped(
        threshold=level.threshold,
        target=level.target,
        far=different / int(pairs.different.sum()),
        tar=same / int(pairs.same.sum()),
        far_low=low,
        far_high=high,
    )
