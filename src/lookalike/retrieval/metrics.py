"""Retrieval metrics of a set of embeddings: every image asks for the others of its class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lookalike.distributed import ALONE, World
from lookalike.errors import DataError, TrainingError
from lookalike.retrieval.ranking import rank
from lookalike.retrieval.roles import Roles

KS = (1, 2, 4, 8)

DEFINITIONS = {
    "recall_at_k": "share of the queries with an image of their class among the k most similar"
    " (metric-learning recall; recall_at_1 is precision@1)",
    "map_at_r": "mean over the queries of (1/R) * sum over the ranks i <= R of P(i) * rel(i), where"
    " R is the number of other images of the query's class, rel(i) is 1 if rank i holds one of"
    " them and else 0, and P(i) is the share of them among the first i; divided by R, not by the"
    " number of hits",
    "r_precision": "mean over the queries of the share of the query's class among the first R",
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
    """

    recall: dict[int, float]
    map_at_r: float
    r_precision: float
    num_queries: int
    num_lone: int
    num_gallery: int

    @property
    def primary(self) -> tuple[str, float]:
        """Name and value of the metric that chooses the best checkpoint: MAP@R.

        It looks at the whole neighbourhood, all R positives and their order, where Recall@1 sees
        one neighbour: it varies less from one evaluation to the next, still tells models apart
        where Recall@1 is near its ceiling, and cannot rise by one lucky near-duplicate a class.
        """
        return "map_at_r", self.map_at_r

    def to_dict(self) -> dict[str, float]:
        """Flat names and values, as metrics.jsonl and tables have them."""
        return {
            **{f"recall_at_{k}": value for k, value in self.recall.items()},
            "map_at_r": self.map_at_r,
            "r_precision": self.r_precision,
            "queries": self.num_queries,
            "lone_queries": self.num_lone,
            "gallery": self.num_gallery,
        }


def score(
    embeddings: Tensor,
    labels: Tensor | np.ndarray,
    *,
    roles: Roles | None = None,
    ks: Sequence[int] = KS,
    world: World = ALONE,
    device: torch.device | None = None,
) -> Scores:
    """Measure retrieval by cosine similarity: leave-one-out, or by roles.

    Ranking is exact and streamed: the result is the same to the last bit for any order of the
    images, number of workers and threads, and device, and the N x N similarities are never held.
    See `lookalike.retrieval.ranking` for the arithmetic, the rule for ties and the memory.

    Args:
        embeddings: (N, D) of any floating type and length, on any device; on all workers the
            same, each image once (gathered by row).
        labels: (N,) integers, the class of each image.
        roles: who asks, who is searched and who never meets; by default everyone asks for all
            others.
        ks: the k of Recall@k.
        world: the workers, who divide the queries; all of them return the same scores.
        device: where to compute, by default the worker's device.

    Raises:
        TrainingError: an embedding is not finite.
        DataError: no query has anything to find.
    """
    labels = torch.as_tensor(labels)
    if embeddings.ndim != 2 or not embeddings.is_floating_point():
        raise ValueError(
            f"embeddings must be (N, D) floats, got {embeddings.dtype} of shape"
            f" {tuple(embeddings.shape)}"
        )
    if labels.shape != embeddings.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"labels must be {len(embeddings)} integers, got {labels.dtype} of shape"
            f" {tuple(labels.shape)}"
        )
    if not ks or min(ks) < 1:
        raise ValueError(f"ks must be positive, got {tuple(ks)}")
    embeddings = embeddings.detach()
    broken = ~torch.isfinite(embeddings).all(1)  # (N,)
    if broken.any():
        raise TrainingError(
            f"{int(broken.sum()):,} of {len(broken):,} embeddings are not finite (the first is row"
            f" {int(broken.nonzero()[0])}): the model has diverged; lower optim.lr, or train in"
            " fp32 or bf16"
        )
    device = world.device if device is None else torch.device(device)
    if device.type == "mps":
        device = torch.device("cpu")  # it has no float64
    ranks = rank(embeddings, labels, depth=max(ks), world=world, device=device, roles=roles)
    if len(ranks.relevant) == 0:
        raise DataError(_nothing_to_find(len(labels), roles))
    relevant = ranks.relevant.double()
    return Scores(
        recall={k: _mean((ranks.first <= k).double()) for k in sorted(set(ks))},
        map_at_r=_mean(ranks.precision / relevant),
        r_precision=_mean(ranks.hits.double() / relevant),
        num_queries=len(relevant),
        num_lone=(len(labels) if roles is None else int(roles.query.sum())) - len(relevant),
        num_gallery=len(labels) if roles is None else int(roles.gallery.sum()),
    )


def _nothing_to_find(count: int, roles: Roles | None) -> str:
    if roles is None:
        return (
            f"validation cannot be measured: no class has two images ({count:,} images); add"
            " images of the same classes"
        )
    return (
        f"validation cannot be measured: of {count:,} images, {int(roles.query.sum()):,} are"
        f" queries and {int(roles.gallery.sum()):,} are in the gallery, and no query has an image"
        " of its class, and not of its own sequence, to find; see is_query, is_gallery, sequence"
    )


def _mean(values: Tensor) -> float:
    """The mean, correctly rounded: the order of the values does not matter."""
    return math.fsum(values.tolist()) / len(values)
