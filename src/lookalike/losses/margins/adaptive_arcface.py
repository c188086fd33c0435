"""ArcFace with a margin for each class, by the number of its images.

Ha, Liu, Liu and Liao, "Google Landmark Recognition 2020 Competition Third Place Solution"
(arXiv 2010.05350), dynamic margins, and the authors' code
(github.com/haqishen/Google-Landmark-Recognition-2020-3rd-Place-Solution).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lookalike.errors import ConfigError
from lookalike.losses.margin import RowContext
from lookalike.losses.margins.arcface import ArcFace, turned_or_lowered
from lookalike.losses.metric_loss import ABOVE_ZERO, angle_parameter, parameter

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class AdaptiveArcFace(ArcFace):
    """z_y = scale * cos(angle + m(n)), m(n) = a * n^(-power) + b for a class of n images.

    a and b are such that m(fewest) = margin and m(most) = least; smaller and larger classes have
    these margins too. The authors take the smallest and the largest class of their data for
    `fewest` and `most`; here they are 1 and infinity unless given, so that a class keeps its
    margin when others are added.

    Attributes:
        least: the margin of the largest classes, in degrees, at most `margin`.
        power: how fast the margin falls with the size of the class.
        fewest: images of the classes that have the whole margin.
        most: images from which on a class has the least margin.
    """

    least: float = angle_parameter(2.9)
    power: float = parameter(0.25, "a number above 0, at most 1", ABOVE_ZERO, 1)
    fewest: float = parameter(1, "a number of images, at least 1", 1)
    most: float = parameter(math.inf, "a number of images, at least 1", 1)

    name = "adaptive_arcface"
    scale: float = 80.0
    uses_count = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.least > self.margin:
            raise ConfigError(
                f"loss.options.least={self.least:g} for {self.name} is above "
                f"loss.margin={self.margin:g}; it is the margin of the largest classes, at most "
                "that of the smallest; default: 2.9"
            )
        if not self.fewest < self.most:
            raise ConfigError(
                f"loss.options.fewest={self.fewest:g} for {self.name} is not below "
                f"loss.options.most={self.most:g}; default: 1"
            )

    def target(self, cos: Tensor, context: RowContext) -> Tensor:
        """cos(angle + m(n)), (B,)."""
        rarest, commonest = self.fewest**-self.power, self.most**-self.power
        a = math.radians(self.margin - self.least) / (rarest - commonest)
        b = math.radians(self.least) - a * commonest
        count = context.count.to(cos.dtype).clamp(self.fewest, self.most)
        m = a * count.pow(-self.power) + b  # (B,)
        return turned_or_lowered(cos, m, m.cos(), m.sin())
