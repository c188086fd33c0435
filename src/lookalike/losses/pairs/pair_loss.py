"""Pair loss: a loss of the cosines between the images of a batch.

Each image is an anchor once. It is compared with all other images of the global batch and, with a
cross-batch memory, with embeddings of earlier batches. A pair loss is a function of the cosines of
an anchor alone; the loss of a batch is the mean over its anchors. It has no weights and no
collectives: these belong to `lookalike.losses.pairs.batch_comparison`.

The modules of the pair losses use methods of tensors only and do not import torch, so that a
request can be checked without loading it.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lookalike.losses.metric_loss import MetricLoss

if TYPE_CHECKING:
    from torch import Tensor

MASKED = -1e30
"""Logit of a pair that is left out of a log-sum-exp; minus infinity would have no gradient."""


@dataclass(frozen=True)
class Pairs:
    """Cosines of n anchors with N images; the anchor itself is one of them.

    Attributes:
        cos: (n, N), differentiable.
        same: (n, N) bool, another image of the anchor's class, or of one of its classes.
        other: (n, N) bool, an image of other classes. Neither is the anchor itself.
    """

    cos: Tensor
    same: Tensor
    other: Tensor


@dataclass(frozen=True)
class PairLoss(MetricLoss):
    """Base of all pair losses; their numbers are fields with a range.

    Attributes:
        ranks: whether `row_losses` has (n, P, N) numbers, for P positives of an anchor.

    Raises:
        ConfigError: a number is out of its range.
    """

    margin = None
    scale = None
    has_class_weights = False
    needs_positives = True
    ranks: ClassVar[bool] = False

    @abstractmethod
    def row_losses(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Loss of each anchor, (n,), and whether the mean counts it, (n,) bool."""


def log_one_plus_sum(logits: Tensor, mask: Tensor, dim: int = 1) -> Tensor:
    """log(1 + sum of exp(logits)) over the entries of `mask` along `dim`."""
    summed = logits.masked_fill(~mask, MASKED).logsumexp(dim)
    return summed.logaddexp(summed.new_zeros(()))


def soft_above(pairs: Pairs, positive: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Soft comparison of every image with each positive: sigmoid of the difference of cosines.

    Args:
        pairs: of n anchors.
        positive: (n, N) bool.
        temperature: of the sigmoid.

    Returns:
        (n, P, N): how much each image is above each positive, 0 for the positive itself; and
        (n, P) bool: False where an anchor has fewer than P positives.
    """
    cos = pairs.cos
    width = int(positive.sum(1).max())
    order = positive.byte().argsort(dim=1, descending=True, stable=True)
    column = order[:, :width]  # (n, P)
    # No column comes twice in a row, so that the gradient of `gather` is the same in each run.
    threshold = cos.gather(1, column)  # (n, P)
    above = ((cos[:, None] - threshold[:, :, None]) / temperature).sigmoid()  # (n, P, N)
    above = above.scatter(2, column[:, :, None], 0.0)
    return above, positive.gather(1, column)
