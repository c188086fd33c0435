"""The margin added to the angle: ArcFace.

Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019
(arXiv 1801.07698).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lookalike.losses.margin import Margin, RowContext

if TYPE_CHECKING:
    from torch import Tensor

# Below this sin^2 the angle is 0 or pi up to rounding, and the sine is held constant:
# its slope, 1/sin, would otherwise be infinite there.
_FLAT = 1e-14


def sine(cos: Tensor) -> Tensor:
    """The sine of angles from 0 to pi given by their cosine, (B,), with finite slopes."""
    return ((1 - cos) * (1 + cos)).clamp_min(_FLAT).sqrt()


def turned(cos: Tensor, cos_m: Tensor | float, sin_m: Tensor | float) -> Tensor:
    """cos(angle + m) of angles given by their cosine, (B,), with finite slopes everywhere.

    Args:
        cos: (B,) cosines; rounding may carry them a little past -1 and 1.
        cos_m: cos(m), a number or (B,).
        sin_m: sin(m), a number or (B,).
    """
    return cos * cos_m - sine(cos) * sin_m


def turned_or_lowered(
    cos: Tensor, m: Tensor | float, cos_m: Tensor | float, sin_m: Tensor | float
) -> Tensor:
    """cos(angle + m), and cos - m * sin(m) where angle + m passes 180 degrees, (B,).

    The cosine would rise again there; this falls on, as in the authors' code and in
    pytorch-metric-learning.

    Args:
        cos: (B,) cosines.
        m: from 0 to pi / 2, in radians, a number or (B,).
        cos_m: cos(m).
        sin_m: sin(m).
    """
    return turned(cos, cos_m, sin_m).where(cos >= -cos_m, cos - m * sin_m)


@dataclass(frozen=True)
class ArcFace(Margin):
    """z_y = scale * cos(angle + margin), the margin in degrees.

    Where angle + margin passes 180 degrees the target is cos - m * sin(m), with m the margin in
    radians.
    """

    name = "arcface"
    unit = "degrees"
    margin: float = 28.6
    scale: float = 64.0

    def target(self, cos: Tensor, context: RowContext) -> Tensor:
        """cos(angle + margin), (B,)."""
        m = math.radians(self.margin)
        return turned_or_lowered(cos, m, math.cos(m), math.sin(m))
