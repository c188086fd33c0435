"""The margin added to the angle: ArcFace.

Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019
(arXiv 1801.07698).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lookalike.losses.margin import Margin

if TYPE_CHECKING:
    from torch import Tensor

# Below this sin^2 the angle is 0 or pi up to rounding, and the sine is held constant:
# its slope, 1/sin, would otherwise be infinite there.
_FLAT = 1e-14


@dataclass(frozen=True)
class ArcFace(Margin):
    """z_y = scale * cos(angle + margin), the margin in degrees.

    Where angle + margin passes 180 degrees the cosine would rise again; there the target is
    cos - m * sin(m), with m the margin in radians, as in the authors' code and in
    pytorch-metric-learning.
    """

    name = "arcface"
    unit = "degrees"
    default_margin = 28.6
    default_scale = 64.0

    def target(self, cos: Tensor) -> Tensor:
        """cos(angle + margin), (B,)."""
        m = math.radians(self.margin)
        sin = ((1 - cos) * (1 + cos)).clamp_min(_FLAT).sqrt()
        added = cos * math.cos(m) - sin * math.sin(m)
        return added.where(cos >= -math.cos(m), cos - m * math.sin(m))
