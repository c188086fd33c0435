"""The metrics of one query as functions of the ranks of the images that it should find."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lookalike.metrics.exact_similarity import tree_sum

RECALL = (1, 2, 4, 8)
"""The default k of Recall@k."""


@dataclass(frozen=True)
class RankMetrics:
    """The metrics to measure."""

    recall: tuple[int, ...] = RECALL  # the k of Recall@k, ascending
    precision: tuple[int, ...] = ()  # the k of precision@k, ascending
    full: bool = False  # whether to rank everything, for average precision and mINP

    @property
    def depth(self) -> int | None:
        """Ranks up to the larger of this and R decide all metrics; None: all ranks do."""
        return None if self.full else max((*self.recall, *self.precision), default=1)

    @property
    def names(self) -> list[str]:
        """In the order of the columns of `of_ranks`."""
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
