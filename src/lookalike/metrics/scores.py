"""Retrieval metrics: each image ranks all others, and its own class should come first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from lookalike.data.catalog import Catalog
from lookalike.distributed.world import ALONE, World
from lookalike.errors import DataError, TrainingError
from lookalike.log import counted
from lookalike.metrics.class_members import relevant_images
from lookalike.metrics.protocol import Roles
from lookalike.metrics.rank_metrics import RECALL, RankMetrics
from lookalike.metrics.ranking import rank

CHECKED_ROWS = 4096
"""Embeddings that are checked at a time."""

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
    "queries": "each image in turn, or those marked is_query, searches its class among all others,"
    " or those marked is_gallery; it finds neither itself nor an image of its sequence",
    "lone_queries": "queries without another image of their class to find: they"
    " are in no average, and stay in the gallery",
    "gallery": "images that are searched: all of the set, or those marked is_gallery",
    "similarity": "cosine; two that differ by at most 2^-23 (float32's epsilon) are tied, and ties"
    " are decided against the query",
}


@dataclass(frozen=True)
class PerQuery:
    """The metrics of the Q queries that have something to find, by ascending row.

    Attributes:
        rows: (Q,) int64: the image of the set.
        relevant: (Q,) int64, R: the images that it should find.
        values: metric to (Q,) float64, fractions of 1, on the CPU: "recall_at_K" (1 or 0) and
            "precision_at_K" for the k asked for, "map_at_r", "r_precision", and, where the full
            ranking was asked for, "average_precision" and "inverse_negative_penalty". See
            `DEFINITIONS`.
    """

    rows: Tensor
    relevant: Tensor
    values: dict[str, Tensor]


@dataclass(frozen=True)
class Scores:
    """Retrieval metrics of a set of images, see `DEFINITIONS`.

    Attributes:
        recall: Recall@k by k, fractions of 1.
        map_at_r: MAP@R (Musgrave et al., A Metric Learning Reality Check, 2020), of 1.
        r_precision: R-precision, of 1.
        num_queries: the queries that the averages are over.
        num_lone: queries left out, as there is no other image of their class to find.
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
        """The means over the queries of a set of `count` images, measured with these roles."""
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

        It covers the whole neighbourhood, all R positives and their order, where Recall@1 covers
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


def findable_queries(catalog: Catalog) -> Tensor:
    """The images that are queries and have an image to find, (N,) bool."""
    roles = Roles.of(catalog.records)
    found = relevant_images(torch.from_numpy(catalog.all_ids), roles) > 0
    return found if roles is None else found & roles.query


def check_measurable(catalog: Catalog) -> None:
    """Check, before any image is embedded, that a search can be right and can be wrong.

    Raises:
        DataError: no query has an image to find, or all images of the gallery are of one class.
    """
    labels, roles = torch.from_numpy(catalog.all_ids), Roles.of(catalog.records)
    place = catalog.records[0].source
    if not findable_queries(catalog).any():
        raise DataError(f"{place}: {_nothing_to_find(labels, roles)}")
    searched = labels if roles is None else labels[roles.gallery]
    if len(searched[searched >= 0].unique()) == 1:
        raise DataError(
            f"{place}: retrieval cannot be measured: all {len(searched):,} images to find are of "
            "one class, so that any model finds them; add images of other classes"
        )


def measure_queries(
    embeddings: Tensor | np.ndarray,
    labels: Tensor | np.ndarray,
    *,
    roles: Roles | None = None,
    recall: Sequence[int] = RECALL,
    precision: Sequence[int] = (),
    full: bool = False,
    world: World = ALONE,
    device: torch.device | None = None,
) -> PerQuery:
    """Measure, query by query, retrieval by cosine similarity: leave-one-out, or by roles.

    Ranking is exact and streamed: the result is the same to the last bit for any order of the
    images, number of workers and threads, and device, and the N x N similarities are never held.
    See `lookalike.metrics.ranking` for the rule for ties and the memory.

    Args:
        embeddings: (N, D) of any floating type and length, on any device; on all workers the
            same.
        labels: (N,) integers, the class of each image; or (N, L) of images that may have up to L
            classes, with -1 behind the last: an image should find those with a class in common.
        roles: queries, gallery and sequences; by default every image searches all others.
        recall: the k of Recall@k.
        precision: the k of precision@k.
        full: measure average precision and the inverse negative penalty too; they need every
            image's rank, where the others need the first ones.
        world: the workers, who divide the tiles; all of them return the same.
        device: where to compute, by default the worker's device.

    Raises:
        TrainingError: an embedding is not finite.
        DataError: no query has anything to find.
    """
    embeddings, labels = checked(embeddings, labels)
    if not all(isinstance(k, Integral) and 1 <= k < 2**31 for k in (*recall, *precision)):
        raise ValueError(
            f"every k must be an integer from 1 on, got {tuple(recall)} and {tuple(precision)}"
        )
    device = world.device if device is None else torch.device(device)
    if device.type == "mps":
        device = torch.device("cpu")  # it has no float64
    metrics = RankMetrics(tuple(sorted(set(recall))), tuple(sorted(set(precision))), full)
    rows, relevant, table = rank(
        embeddings, labels, metrics, world=world, device=device, roles=roles
    )
    if len(rows) == 0:
        raise DataError(_nothing_to_find(labels, roles))
    order = rows.argsort()
    values = table[order].T.contiguous()  # (M, Q)
    return PerQuery(rows[order], relevant[order], dict(zip(metrics.names, values, strict=True)))


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
    """The means of `measure_queries`, which has the same arguments; `ks` are those of Recall@k.

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


def checked(embeddings: Tensor | np.ndarray, labels: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
    """Embeddings without their gradient, and labels as a tensor.

    Raises:
        TrainingError: an embedding is not finite.
        ValueError: they are not (N, D) floats and (N,) integers.
    """
    embeddings = torch.as_tensor(embeddings)
    if isinstance(labels, np.ndarray) and labels.dtype.kind not in "iub":
        raise ValueError(
            f"labels must be {len(embeddings)} integers, got {labels.dtype} of shape"
            f" {labels.shape}; numpy.unique(labels, return_inverse=True)[1] numbers them"
        )
    labels = torch.as_tensor(labels)
    if embeddings.ndim != 2 or not embeddings.is_floating_point() or embeddings.shape[1] == 0:
        raise ValueError(
            f"embeddings must be (N, D) floats, got {embeddings.dtype} of shape"
            f" {tuple(embeddings.shape)}"
        )
    fits = labels.ndim in (1, 2) and labels.shape[:1] == embeddings.shape[:1]
    if not fits or labels.is_floating_point():
        raise ValueError(
            f"labels must be {len(embeddings)} integers, got {labels.dtype} of shape"
            f" {tuple(labels.shape)}"
        )
    embeddings = embeddings.detach()
    # Infinite numbers are the largest or the smallest, and NaN is both.
    extremes = [torch.stack(part.aminmax(dim=1)) for part in embeddings.split(CHECKED_ROWS)]
    broken = ~torch.isfinite(torch.cat(extremes, 1)).all(0)  # (N,)
    if broken.any():
        raise TrainingError(
            f"{int(broken.sum()):,} of {len(broken):,} embeddings are not finite (the first is row"
            f" {int(broken.nonzero()[0])}): the model has diverged; lower optim.lr, or train in"
            " fp32 or bf16"
        )
    return embeddings, labels


def _nothing_to_find(labels: Tensor, roles: Roles | None) -> str:
    if roles is None:
        return (
            "retrieval cannot be measured: no class has two images"
            f" ({counted(len(labels), 'image')}); add images of the same classes"
        )
    asked, searched = labels[roles.query], labels[roles.gallery]
    queries = counted(len(asked), "query", "queries")
    sizes = f"{queries} and {len(searched):,} in the gallery"
    if not torch.isin(asked[asked >= 0], searched).any():  # -1 fills rows of fewer labels
        return (
            f"retrieval cannot be measured: of {counted(len(labels), 'image')}, {sizes}, no class"
            " has a query and an image in the gallery; their labels must be of the same classes"
        )
    return (
        f"retrieval cannot be measured: of {counted(len(labels), 'image')}, {sizes}, no query has"
        " an image of its class to find that is not of its own sequence or camera; see the columns"
        " is_query, is_gallery, sequence, camera"
    )


def _by_k(means: dict[str, float], prefix: str) -> dict[int, float]:
    return {
        int(name.removeprefix(prefix)): mean
        for name, mean in means.items()
        if name.startswith(prefix)
    }


def _mean(values: Tensor) -> float:
    """The mean, correctly rounded: the order of the values does not matter."""
    return math.fsum(values.tolist()) / len(values)
