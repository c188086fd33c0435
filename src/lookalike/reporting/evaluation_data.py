"""What a model makes of a list of images: all that the page shows besides the curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lookalike.data.catalog import Catalog
from lookalike.data.record import Record
from lookalike.metrics.protocol import Roles
from lookalike.metrics.scores import PerQuery, measure_queries
from lookalike.metrics.verification import PairCounts, count_pairs
from lookalike.reporting.query_neighbours import Neighbours, find_neighbours, sample_queries

NEIGHBOURS = 8
"""Shown of each query."""


@dataclass(frozen=True)
class Evidence:
    """The M images of a list that could be read, as a model sees them.

    Attributes:
        records: of the images.
        names: of the classes.
        labels: (M,) int64, the class of each image.
        vectors: (M, D) float32 on the CPU, of unit length.
        found: what the queries, or a sample of them, found.
        per_query: their metrics, in the same order.
        pairs: how alike images of a class are, and images of two.
        trained: (classes,) int64, training images of each; None where training is not known.
    """

    records: Sequence[Record]
    names: Sequence[str]
    labels: np.ndarray
    vectors: Tensor
    found: Neighbours
    per_query: PerQuery
    pairs: PairCounts
    trained: np.ndarray | None

    @property
    def sampled(self) -> bool:
        """Whether a sample of the queries stands for all of them."""
        return len(self.found.queries) < self.found.of

    @property
    def asked(self) -> np.ndarray:
        """The class of each query, (Q,)."""
        return np.asarray(self.labels[self.found.queries])

    def name(self, image: int) -> str:
        """The label of an image."""
        return self.names[int(self.labels[image])]


def gather(
    catalog: Catalog,
    rows: Tensor,
    vectors: Tensor,
    *,
    trained: np.ndarray | None,
    seed: int,
    device: torch.device,
) -> Evidence:
    """Look at embeddings of a list.

    Args:
        catalog: the list.
        rows: (M,) int64, the records that could be read.
        vectors: (M, D) their embeddings, of unit length.
        trained: (classes of the catalog,) training images of each class, if known.
        seed: of the sample of queries, where there are very many.
        device: where to compute.

    Raises:
        DataError: no image has another of its class to find.
        TrainingError: an embedding is not finite.
    """
    labels = torch.from_numpy(catalog.class_ids)[rows]
    everyone = Roles.of(catalog.records)
    roles = None if everyone is None else everyone[rows]
    queries, of = sample_queries(labels, roles, seed)
    per_query = measure_queries(
        vectors, labels, roles=_only(queries, roles, len(labels)), device=device
    )
    found = find_neighbours(
        vectors, labels, queries, roles=roles, count=NEIGHBOURS, of=of, device=device
    )
    pairs = found.pairs
    if len(queries) == of:  # all pairs, each once, those of images that find nothing too
        pairs = count_pairs(vectors, labels, roles=roles, device=device)
    return Evidence(
        records=[catalog.records[row] for row in rows.tolist()],
        names=catalog.classes.names,
        labels=labels.numpy(),
        vectors=vectors,
        found=found,
        per_query=per_query,
        pairs=pairs,
        trained=trained,
    )


def _only(queries: Tensor, roles: Roles | None, count: int) -> Roles:
    """The same roles, in which nobody else asks."""
    ask = torch.zeros(count, dtype=torch.bool)
    ask[queries] = True
    if roles is None:
        return Roles(ask, torch.ones(count, dtype=torch.bool), torch.full((count,), -1))
    return Roles(ask, roles.gallery, roles.sequence)
