"""Multi-similarity loss (Wang et al., CVPR 2019, arXiv 1904.06627), with its mining of pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lookalike.losses.metric_loss import ABOVE_ZERO, parameter
from lookalike.losses.pairs.pair_loss import PairLoss, Pairs, log_one_plus_sum

if TYPE_CHECKING:
    from torch import Tensor

_ALL = 2  # cosines differ by no more


@dataclass(frozen=True)
class MultiSimilarity(PairLoss):
    """1/alpha log(1 + sum exp(-alpha (s - base))) + 1/beta log(1 + sum exp(beta (s - base))).

    The first sum is over positives, the second over negatives. Mining takes the positives that
    are less than `epsilon` more similar than the most similar negative, and the negatives that
    are less than `epsilon` less similar than the least similar positive; 2 takes all.
    """

    name = "multi_similarity"

    alpha: float = parameter(2.0, "a number above 0, to 1000", ABOVE_ZERO, 1000)
    beta: float = parameter(50.0, "a number above 0, to 1000", ABOVE_ZERO, 1000)
    base: float = parameter(0.5, "a cosine, from -1 to 1", -1, 1)
    epsilon: float = parameter(0.1, "a number from 0 to 2, where 2 takes all pairs", 0, _ALL)

    def row_losses(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        cos, same, other = pairs.cos, pairs.same, pairs.other
        if self.epsilon < _ALL:
            fixed = cos.detach()
            hardest = fixed.masked_fill(~other, -math.inf).amax(1, keepdim=True)  # (n, 1)
            easiest = fixed.masked_fill(~same, math.inf).amin(1, keepdim=True)
            same = same & (fixed - self.epsilon < hardest)
            other = other & (fixed + self.epsilon > easiest)
        near = log_one_plus_sum(self.alpha * (self.base - cos), same) / self.alpha
        far = log_one_plus_sum(self.beta * (cos - self.base), other) / self.beta
        return near + far, same.new_ones(len(same))
