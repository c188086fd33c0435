"""Retrieval metrics of a set of embeddings: every image asks for the others of its class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lookalike.distributed.world import ALONE, World
from lookalike.metrics.protocol import Roles
from lookalike.metrics.query_metrics import RECALL, PerQuery, measure_queries

DEFINITIONS = {
    "recall_at_k": "share of the queries with an image of their class among the k most similar"
    " (metric-learning recall; recall_at_1 is precision@1)",
    "precision_at_k": "mean over the queries of the share of their class among the k most similar;"
    " divided by k, also where the class is smaller",
    "map_at_r": "mean over the queries of (1/R) * sum over the ranks i <= R of P(i) * rel(i), where"
    " R is the number of other images of the query's class, rel(i) is 1 if rank i holds one of"
    " them and else 0, and P(i) is the share of them among the first i; divided by R, not by the"
    " number of hits",
    "r_precision": "mean over the queries of the share of the query's class among the first R",
    "mean_average_precision": "mean over the queries of (1/R) * sum over all ranks i of"
    " P(i) * rel(i): the whole ranking counts, and every image of the class is found somewhere",
    "minp": "mean over the queries of R divided by the rank of the image of their class that comes"
    " last (mINP of Ye et al., Deep Learning for Person Re-identification, 2021)",
    "queries": "each image in turn, or those marked is_query, asks for its class among all others,"
    " or those marked is_gallery; it finds neither itself nor an image of its sequence",
    "lone_queries": "images that would ask but have no other image of their class to find: they"
    " are in no average, and stay in the gallery",
    "gallery": "images that are searched: all of the set, or those marked is_gallery",
    "similarity": "cosine; two that differ by at most 2^-23 (float32's epsilon) are tied, and ties"
    " are decided against the query",
}


@dataclass(frozen=True)
class Scores:
    """How well each image of a set finds the others of its class; see `DEFINITIONS`.

    Attributes:
        recall: Recall@k by k, fractions of 1.
        map_at_r: MAP@R (Musgrave et al., A Metric Learning Reality Check, 2020), of 1.
        r_precision: R-precision, of 1.
        num_queries: the queries that the averages are over.
        num_lone: images that could not ask, as there is no other of their class to find.
        num_gallery: the images that are searched.
        precision: precision@k by k, of 1, for the k that were asked for.
        mean_average_precision: of the full ranking, of 1; None where it was not asked for.
        minp: mINP, of 1; None where it was not asked for.
    """

    recall: dict[int, float]
    map_at_r: float
    r_precision: float
    num_queries: int
    num_lone: int
    num_gallery: int
    precision: dict[int, float] = field(default_factory=dict)
    mean_average_precision: float | None = None
    minp: float | None = None

    @classmethod
    def of(cls, found: PerQuery, count: int, roles: Roles | None = None) -> Scores:
        """The means of what each query found.

        Args:
            found: as `measure_queries` measured it.
            count: N, the images of the set.
            roles: their roles, as they were measured with.
        """
        means = {name: _mean(values) for name, values in found.values.items()}
        return cls(
            recall=_by_k(means, "recall_at_"),
            map_at_r=means["map_at_r"],
            r_precision=means["r_precision"],
            num_queries=len(found.rows),
            num_lone=(count if roles is None else int(roles.query.sum())) - len(found.rows),
            num_gallery=count if roles is None else int(roles.gallery.sum()),
            precision=_by_k(means, "precision_at_"),
            mean_average_precision=means.get("average_precision"),
            minp=means.get("inverse_negative_penalty"),
        )

    @property
    def primary(self) -> tuple[str, float]:
        """Name and value of the metric that chooses the best checkpoint: MAP@R.

        It looks at the whole neighbourhood, all R positives and their order, where Recall@1 sees
        one neighbour: it varies less from one evaluation to the next, still tells models apart
        where Recall@1 is near its ceiling, and cannot rise by one lucky near-duplicate a class.
        """
        return "map_at_r", self.map_at_r

    def to_dict(self) -> dict[str, float]:
        """Flat names and values, as metrics.jsonl and tables have them; only what was measured."""
        whole = {"mean_average_precision": self.mean_average_precision, "minp": self.minp}
        return {
            **{f"recall_at_{k}": value for k, value in self.recall.items()},
            **{f"precision_at_{k}": value for k, value in self.precision.items()},
            "map_at_r": self.map_at_r,
            "r_precision": self.r_precision,
            **{name: value for name, value in whole.items() if value is not None},
            "queries": self.num_queries,
            "lone_queries": self.num_lone,
            "gallery": self.num_gallery,
        }


def score(
    embeddings: Tensor | np.ndarray,
    labels: Tensor | np.ndarray,
    *,
    roles: Roles | None = None,
    ks: Sequence[int] = RECALL,
    precision: Sequence[int] = (),
    full: bool = False,
    world: World = ALONE,
    device: torch.device | None = None,
) -> Scores:
    """Measure retrieval by cosine similarity: the means of what `measure_queries` finds.

    Args:
        embeddings: (N, D) of any floating type and length, on any device; on all workers the
            same, each image once (gathered by row).
        labels: (N,) integers, the class of each image.
        roles: who asks, who is searched and who never meets; by default everyone asks for all
            others.
        ks: the k of Recall@k.
        precision: the k of precision@k.
        full: measure mean average precision and mINP too.
        world: the workers, who divide the queries; all of them return the same scores.
        device: where to compute, by default the worker's device.

    Raises:
        TrainingError: an embedding is not finite.
        DataError: no query has anything to find.
    """
    if not ks:
        raise ValueError(f"ks must be positive, got {tuple(ks)}")
    found = measure_queries(
        embeddings,
        labels,
        roles=roles,
        recall=ks,
        precision=precision,
        full=full,
        world=world,
        device=device,
    )
    return Scores.of(found, len(labels), roles)


def _by_k(means: dict[str, float], prefix: str) -> dict[int, float]:
    return {
        int(name.removeprefix(prefix)): mean
        for name, mean in means.items()
        if name.startswith(prefix)
    }


def _mean(values: Tensor) -> float:
    """The mean, correctly rounded: the order of the values does not matter."""
    return math.fsum(values.tolist()) / len(values)
