"""The plain softmax cross-entropy: no margin, no bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lookalike.losses.margin import Margin, RowContext

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Softmax(Margin):
    """z_j = scale * (e . w_j) for every class."""

    name = "softmax"
    unit = "none"
    margin: float = 0.0
    scale: float = 1.0
    embedding_norm = True
    weight_norm = True
    modifies_target = False

    def target(self, cos: Tensor, context: RowContext) -> Tensor:
        """The cosine as it is, (B,)."""
        return cos
