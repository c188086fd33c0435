"""What every query of a set finds: its metrics, one number a query and metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from lookalike.distributed.world import ALONE, World
from lookalike.errors import DataError, TrainingError
from lookalike.metrics.exact_similarity import tree_sum
from lookalike.metrics.protocol import Roles
from lookalike.metrics.ranking import rank

RECALL = (1, 2, 4, 8)
"""The k of Recall@k that are measured where nothing else is said."""

_ROWS = 4096  # embeddings that are checked at a time


@dataclass(frozen=True)
class PerQuery:
    """What each query found; the Q images that ask and have something to find, by ascending row.

    Attributes:
        rows: (Q,) int64: which image of the set asks.
        relevant: (Q,) int64, R: the images that it should find.
        values: metric to (Q,) float64, fractions of 1, on the CPU: "recall_at_K" (1 or 0) and
            "precision_at_K" for the wanted k, "map_at_r", "r_precision", and, where the full
            ranking was asked for, "average_precision" and "inverse_negative_penalty". See
            `lookalike.metrics.scores.DEFINITIONS`.
    """

    rows: Tensor
    relevant: Tensor
    values: dict[str, Tensor]


@dataclass(frozen=True)
class Wanted:
    """The metrics to measure.

    Attributes:
        recall: the k of Recall@k, ascending.
        precision: the k of precision@k, ascending.
        full: whether to rank everything, for average precision and mINP.
    """

    recall: tuple[int, ...]
    precision: tuple[int, ...]
    full: bool

    @property
    def depth(self) -> int | None:
        """Ranks up to the larger of this and R decide all metrics; None: all ranks do."""
        return None if self.full else max((*self.recall, *self.precision), default=1)

    @property
    def names(self) -> list[str]:
        """The metrics, in the order of `of_ranks`' columns."""
        return [
            *(f"recall_at_{k}" for k in self.recall),
            *(f"precision_at_{k}" for k in self.precision),
            "map_at_r",
            "r_precision",
            *(("average_precision", "inverse_negative_penalty") if self.full else ()),
        ]

    def of_ranks(self, ranks: Tensor, relevant: Tensor) -> Tensor:
        """The metrics of b queries, (b, M) float64.

        Args:
            ranks: (b, W) int64, ascending: the ranks, from 1, of the images that each query should
                find, padded behind its R; exact up to the larger of R and `depth`, and larger than
                that where they are not exact.
            relevant: (b,) int64, R, from 1 to W.
        """
        number = torch.arange(1, ranks.shape[1] + 1, device=ranks.device)  # (W,): the i-th ...
        real = number <= relevant[:, None]  # (b, W)
        share = number.double() / ranks  # (b, W): P(rank of the i-th) = i / rank
        hit = (ranks <= relevant[:, None]) & real  # (b, W)
        count = relevant.double()  # (b,)
        columns = [(ranks[:, 0] <= k).double() for k in self.recall]
        columns += [((ranks <= k) & real).sum(1).double() / k for k in self.precision]
        columns += [tree_sum(torch.where(hit, share, 0.0)) / count, hit.sum(1).double() / count]
        if self.full:
            last = ranks.gather(1, relevant[:, None] - 1)[:, 0]  # (b,)
            columns += [tree_sum(torch.where(real, share, 0.0)) / count, count / last]
        return torch.stack(columns, 1)


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
            same, each image once (gathered by row).
        labels: (N,) integers, the class of each image.
        roles: who asks, who is searched and who never meets; by default everyone asks for all
            others.
        recall: the k of Recall@k.
        precision: the k of precision@k.
        full: measure average precision and the inverse negative penalty too; they need every
            image's rank, where the others need the first ones.
        world: the workers, who divide the queries; all of them return the same.
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
    wanted = Wanted(tuple(sorted(set(recall))), tuple(sorted(set(precision))), full)
    rows, relevant, table = rank(
        embeddings,
        labels,
        depth=wanted.depth,
        measure=wanted.of_ranks,
        columns=len(wanted.names),
        world=world,
        device=device,
        roles=roles,
    )
    if len(rows) == 0:
        raise DataError(_nothing_to_find(len(labels), roles))
    order = rows.argsort()
    values = table[order].T.contiguous()  # (M, Q)
    return PerQuery(rows[order], relevant[order], dict(zip(wanted.names, values, strict=True)))


def checked(embeddings: Tensor | np.ndarray, labels: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
    """Embeddings without their gradient and labels as a tensor, if they can be measured.

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
    if labels.shape != embeddings.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"labels must be {len(embeddings)} integers, got {labels.dtype} of shape"
            f" {tuple(labels.shape)}"
        )
    embeddings = embeddings.detach()
    # Infinite numbers are the largest or the smallest, and NaN is both.
    extremes = [torch.stack(part.aminmax(dim=1)) for part in embeddings.split(_ROWS)]
    broken = ~torch.isfinite(torch.cat(extremes, 1)).all(0)  # (N,)
    if broken.any():
        raise TrainingError(
            f"{int(broken.sum()):,} of {len(broken):,} embeddings are not finite (the first is row"
            f" {int(broken.nonzero()[0])}): the model has diverged; lower optim.lr, or train in"
            " fp32 or bf16"
        )
    return embeddings, labels


def _nothing_to_find(count: int, roles: Roles | None) -> str:
    if roles is None:
        return (
            f"validation cannot be measured: no class has two images ({count:,} images); add"
            " images of the same classes"
        )
    return (
        f"validation cannot be measured: of {count:,} images, {int(roles.query.sum()):,} are"
        f" queries and {int(roles.gallery.sum()):,} are in the gallery, and no query has an image"
        " of its class to find that is not of its own sequence or camera; see the columns"
        " is_query, is_gallery, sequence, camera"
    )
