"""A margin that grows with the length of the embedding, and a reward for length: MagFace.

Meng et al., "MagFace: A Universal Representation for Face Recognition and Quality Assessment",
CVPR 2021 (arXiv 2103.06627), and the authors' code (github.com/IrvingMeng/MagFace).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lookalike.errors import ConfigError
from lookalike.losses.margin import Margin, RowContext
from lookalike.losses.margins.arcface import turned_or_lowered
from lookalike.losses.metric_loss import ABOVE_ZERO, angle_parameter, parameter

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class MagFace(Margin):
    """z_y = scale * cos(angle + m(a)), with lambda_g * (a / u_a^2 + 1 / a) added to the loss.

    a is the length of the embedding, clipped to [l_a, u_a]. m(a) runs linearly from l_margin at
    l_a to margin at u_a (l_margin, u_margin in the paper). What is added falls with the length,
    the margin makes it dear: an embedding grows as long as the image allows. The gradient flows
    through a in both, and not where a is clipped.

    Where angle + m(a) passes 180 degrees the target is that of ArcFace. (The authors' code has
    this too, but trains with an "easy margin" that leaves angles above 90 degrees as they are:
    a target that jumps up as the angle grows.)

    Attributes:
        l_margin: the margin of the shortest embeddings, in degrees, at most `margin`.
        l_a: the length that counts as the shortest.
        u_a: the length that counts as the longest.
        lambda_g: the weight of what is added.
    """

    l_margin: float = angle_parameter(25.8)
    l_a: float = parameter(10, "a finite length above 0", ABOVE_ZERO, math.nextafter(math.inf, 0))
    u_a: float = parameter(110, "a finite length above 0", ABOVE_ZERO, math.nextafter(math.inf, 0))
    lambda_g: float = parameter(35, "a finite number, at least 0", 0, math.nextafter(math.inf, 0))

    name = "magface"
    unit = "degrees"
    margin: float = 45.8
    scale: float = 64.0
    uses_length = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.l_margin > self.margin:
            raise ConfigError(
                f"loss.options.l_margin={self.l_margin:g} for {self.name} is above "
                f"loss.margin={self.margin:g}; it is the margin of the shortest embeddings, at "
                "most that of the longest; default: 25.8"
            )
        if not self.l_a < self.u_a:
            raise ConfigError(
                f"loss.options.l_a={self.l_a:g} for {self.name} is not below "
                f"loss.options.u_a={self.u_a:g}; default: 10"
            )

    def target(self, cos: Tensor, context: RowContext) -> Tensor:
        """cos(angle + m(a)), (B,)."""
        longer = self._clipped(context) - self.l_a  # (B,)
        m = math.radians(self.l_margin) + self._slope() * longer  # (B,)
        return turned_or_lowered(cos, m, m.cos(), m.sin())

    def penalty(self, context: RowContext) -> Tensor:
        """lambda_g * (a / u_a^2 + 1 / a), (B,)."""
        a = self._clipped(context)
        return self.lambda_g * (a / self.u_a**2 + 1 / a)

    def warning(self) -> str | None:
        """Text where lambda_g is too small to draw every embedding away from l_a."""
        # The softmax loss rises with a by at most scale * m'(a), and what is added falls at l_a
        # by lambda_g * (1 / l_a^2 - 1 / u_a^2). The authors' trainer compares the same numbers.
        squares = self.u_a**2, self.l_a**2
        least = self.scale * self._slope() * squares[0] * squares[1] / (squares[0] - squares[1])
        if self.lambda_g >= least:
            return None
        return (
            f"loss.options.lambda_g={self.lambda_g:g} for {self.name} is below {least:.1f}, so "
            f"that the margin may hold embeddings at the length l_a={self.l_a:g}"
        )

    def _clipped(self, context: RowContext) -> Tensor:
        return context.length.clamp(self.l_a, self.u_a)

    def _slope(self) -> float:
        return math.radians(self.margin - self.l_margin) / (self.u_a - self.l_a)
