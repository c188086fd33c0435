"""Evaluation of a model on a list of images, with the neighbours of each query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lookalike.data.catalog import Catalog
from lookalike.data.record import Record
from lookalike.metrics.protocol import Roles, first_class
from lookalike.metrics.scores import PerQuery, measure_queries
from lookalike.metrics.verification import PairCounts, count_pairs
from lookalike.reporting.query_neighbours import (
    QueryNeighbours,
    find_neighbours,
    sample_queries,
)

NEIGHBOURS = 8
"""Shown of each query."""


@dataclass(frozen=True)
class EvaluationData:
    """The M readable images of a list and the results of Q queries.

    Attributes:
        labels: (M,) int64, the class of each image, or its first one.
        vectors: (M, D) float32 on the CPU, unit length.
        neighbours: of the queries, all or a sample.
        per_query: metrics, in the same order.
        pairs: histograms of the cosines.
        trained: (classes,) int64, training images of each class; None where unknown.
        levels: name, and metrics with the coarser classes, of each level of `data.hierarchy`, the
            finest first; of all queries that have an image of their coarser class, or a sample.
    """

    records: Sequence[Record]
    names: Sequence[str]
    labels: np.ndarray
    vectors: Tensor
    neighbours: QueryNeighbours
    per_query: PerQuery
    pairs: PairCounts
    trained: np.ndarray | None
    levels: Sequence[tuple[str, PerQuery]] = ()

    @property
    def sampled(self) -> bool:
        """True if some possible queries were left out."""
        return len(self.neighbours.queries) < self.neighbours.total

    @property
    def query_classes(self) -> np.ndarray:
        """(Q,) class of each query."""
        return np.asarray(self.labels[self.neighbours.queries])

    def name(self, image: int) -> str:
        """The label of an image."""
        return self.names[int(self.labels[image])]


def evaluate_list(
    catalog: Catalog,
    rows: Tensor,
    vectors: Tensor,
    *,
    trained: np.ndarray | None,
    seed: int,
    device: torch.device,
) -> EvaluationData:
    """Metrics and neighbours of embeddings of a list.

    Args:
        rows: (M,) int64, the records that could be read.
        vectors: (M, D) their embeddings, unit length.
        trained: (classes of the catalog,) training images of each class; None where unknown.
        seed: of the sample of queries.

    Raises:
        DataError: no image has another one of its class.
        TrainingError: an embedding is not finite.
    """
    labels = torch.from_numpy(catalog.all_ids)[rows]
    roles = Roles.of(catalog.records)
    roles = None if roles is None else roles[rows]
    queries, total = sample_queries(labels, roles, seed)
    per_query = measure_queries(
        vectors, labels, roles=_restricted(roles, queries, len(labels)), device=device
    )
    levels = []
    for level in catalog.levels:  # each with its own queries: an image may be alone in its class
        coarser = torch.from_numpy(level.coarser(catalog.all_ids))[rows]
        asking = _restricted(roles, sample_queries(coarser, roles, seed)[0], len(labels))
        levels.append((level.name, measure_queries(vectors, coarser, roles=asking, device=device)))
    neighbours = find_neighbours(
        vectors, labels, queries, roles=roles, count=NEIGHBOURS, total=total, device=device
    )
    pairs = neighbours.pairs
    if len(queries) == total:  # all pairs, each once, also of images that are no query
        pairs = count_pairs(vectors, labels, roles=roles, device=device)
    return EvaluationData(
        records=[catalog.records[row] for row in rows.tolist()],
        names=catalog.classes.names,
        labels=first_class(labels).numpy(),
        vectors=vectors,
        neighbours=neighbours,
        per_query=per_query,
        pairs=pairs,
        trained=trained,
        levels=levels,
    )


def _restricted(roles: Roles | None, queries: Tensor, count: int) -> Roles:
    """The same roles with these queries only."""
    mask = torch.zeros(count, dtype=torch.bool)
    mask[queries] = True
    if roles is None:
        return Roles(mask, torch.ones(count, dtype=torch.bool), torch.full((count,), -1))
    return Roles(mask, roles.gallery, roles.sequence)
