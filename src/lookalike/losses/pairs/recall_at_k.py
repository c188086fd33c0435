"""Recall@k surrogate (Patel, Tolias and Matas, CVPR 2022, arXiv 2108.11179)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lookalike.losses.metric_loss import ABOVE_ZERO, parameter
from lookalike.losses.pairs.pair_loss import PairLoss, Pairs, soft_above

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RecallAtK(PairLoss):
    """1 - the mean of a smooth Recall@k over k = 1, 2, 4, ... up to `k_max`.

    With r_j = 1 + sum of sigmoid((s_i - s_j) / temperature) over the other images i the smooth rank
    of positive j, Recall@k is min(k, sum over j of sigmoid((k - r_j) / rank_temperature)) divided
    by the most that it can be, min(k, positives). The anchor is not in its own gallery, as in the
    paper; the authors' code has it there, which adds one to all ranks. Anchors without a positive
    do not count.
    """

    name = "recall_at_k"
    ranks = True

    temperature: float = parameter(0.01, "a number above 0, to 1000", ABOVE_ZERO, 1000)
    rank_temperature: float = parameter(1.0, "a number above 0, to 1000", ABOVE_ZERO, 1000)
    k_max: float = parameter(16.0, "a number from 1 to 65536", 1, 2**16)

    def row_losses(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        positive, count = pairs.same, pairs.same.sum(1)
        above, valid = soft_above(pairs, positive, self.temperature)
        gallery = (pairs.same | pairs.other)[:, None]
        rank = 1 + above.masked_fill(~gallery, 0).sum(2)  # (n, P)
        recalls, k = [], 1
        while k <= self.k_max:
            found = ((k - rank) / self.rank_temperature).sigmoid().masked_fill(~valid, 0).sum(1)
            recalls.append(found.clamp_max(k) / count.clamp(1, k))
            k *= 2
        return 1 - sum(recalls[1:], recalls[0]) / len(recalls), count > 0
