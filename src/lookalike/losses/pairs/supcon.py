"""Supervised contrastive loss (Khosla et al., NeurIPS 2020, arXiv 2004.11362)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lookalike.losses.metric_loss import ABOVE_ZERO, parameter
from lookalike.losses.pairs.pair_loss import MASKED, PairLoss, Pairs

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SupCon(PairLoss):
    """Mean over the positives of -log softmax of cos / temperature over all other images.

    The paper's L_out. Anchors without a positive do not count.
    """

    name = "supcon"

    temperature: float = parameter(0.1, "a number above 0, to 1000", ABOVE_ZERO, 1000)

    def row_losses(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        logits, count = pairs.cos / self.temperature, pairs.same.sum(1)
        total = logits.masked_fill(~(pairs.same | pairs.other), MASKED).logsumexp(1)
        positive = logits.masked_fill(~pairs.same, 0).sum(1) / count.clamp_min(1)
        return total - positive, count > 0
