"""Margins subtracted from the cosine: AMSoftmax and CosFace.

The same formula, published twice in 2018 with different recommended values:
Wang et al., "Additive Margin Softmax for Face Verification" (arXiv 1801.05599);
Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition" (arXiv 1801.09414).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lookalike.losses.margin import Margin, RowContext

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class AMSoftmax(Margin):
    """z_y = scale * (cos - margin)."""

    name = "amsoftmax"
    unit = "cosine"
    margin: float = 0.4
    scale: float = 30.0

    def target(self, cos: Tensor, context: RowContext) -> Tensor:
        """Cosine minus the margin, (B,)."""
        return cos - self.margin


@dataclass(frozen=True)
class CosFace(AMSoftmax):
    """AMSoftmax with the values that the CosFace paper recommends."""

    name = "cosface"
    margin: float = 0.35
    scale: float = 64.0
