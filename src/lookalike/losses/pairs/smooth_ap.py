"""Smooth-AP (Brown et al., ECCV 2020, arXiv 2007.12163)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lookalike.losses.metric_loss import ABOVE_ZERO, parameter
from lookalike.losses.pairs.pair_loss import PairLoss, Pairs, soft_above

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SmoothAP(PairLoss):
    """1 - average precision, with sigmoids of differences of cosines in the ranks.

    As in the authors' code, the anchor is in its own gallery, as a positive at the first rank, so
    that an anchor without other positives has almost no loss.
    """

    name = "smooth_ap"
    ranks = True

    temperature: float = parameter(0.01, "a number above 0, to 1000", ABOVE_ZERO, 1000)

    def row_losses(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        positive = ~pairs.other
        above, valid = soft_above(pairs, positive, self.temperature)
        among_positives = 1 + above.masked_fill(~positive[:, None], 0).sum(2)  # (n, P)
        precision = among_positives / (1 + above.sum(2))
        count = positive.sum(1)
        return 1 - precision.masked_fill(~valid, 0).sum(1) / count, count > 0
