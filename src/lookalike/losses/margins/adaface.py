"""The margin by the quality of the image, read from the length of its embedding: AdaFace.

Kim, Jain and Liu, "AdaFace: Quality Adaptive Margin for Face Recognition", CVPR 2022
(arXiv 2204.00964), and the authors' code (github.com/mk-minchul/AdaFace, head.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lookalike.errors import ConfigError
from lookalike.losses.margin import Margin, RowContext
from lookalike.losses.margins.arcface import sine
from lookalike.losses.metric_loss import ABOVE_ZERO, parameter

if TYPE_CHECKING:
    from torch import Tensor

_SHORTEST, _LONGEST = 1e-3, 100.0  # lengths are clipped to these, as in the authors' code
_EPS = 1e-3  # added to the running standard deviation there
_CENTRE = 20.0


@dataclass(frozen=True)
class AdaFace(Margin):
    """z_y = scale * (cos(angle - margin * q) - margin * (1 + q)).

    q = h * (length - mean) / (std + 0.001), clipped to [-1, 1], measures how far the embedding is
    longer than most: a long one is taken for a good image. angle - margin * q is clipped to
    [0, pi]. For q = -1 this is ArcFace, whose gradient is largest near the class; for q = 0
    CosFace; for q = 1 cos(angle - margin) - 2 * margin, whose gradient is largest far from the
    class. Mean and standard deviation of the lengths are running ones; no gradient flows
    through q. (The authors' code also keeps cosines within 0.999 and angles 0.001 off the ends,
    for finite slopes; they are finite here without.)

    The margin is a difference of cosines and, where it turns the angle, in radians: at most
    1.57. The running statistics are (mean, std), 20 and 100 at the start.

    Attributes:
        h: how many margins one standard deviation of the length is worth.
        t_alpha: the share of the new batch in the running statistics.
    """

    h: float = parameter(0.333, "a number from 0 to 1", 0, 1)
    t_alpha: float = parameter(0.01, "a number above 0, at most 1", ABOVE_ZERO, 1)

    name = "adaface"
    unit = "cosine"
    margin: float = 0.4
    scale: float = 64.0
    uses_length = True
    initial_state = (20.0, 100.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.margin > math.pi / 2:
            raise ConfigError(
                f"loss.margin={self.margin:g} for {self.name} is not a number from 0 to 1.57: it "
                "turns the angle too, by this many radians; recommended: 0.4"
            )

    def target(self, cos: Tensor, context: RowContext) -> Tensor:
        """cos(angle - margin * q) - margin * (1 + q), (B,)."""
        mean, std = context.state.unbind()
        length = context.length.detach().clamp(_SHORTEST, _LONGEST)
        q = ((length - mean) * self.h / (std + _EPS)).clamp(-1, 1)  # (B,)
        m = -self.margin * q
        sin, cos_m, sin_m = sine(cos), m.cos(), m.sin()
        turned = cos * cos_m - sin * sin_m
        outside = sin * cos_m + cos * sin_m < 0  # sin(angle + m): below 0 or above pi
        turned = turned.masked_fill(outside & (m < 0), 1.0).masked_fill(outside & (m > 0), -1.0)
        return turned - self.margin * (1 + q)

    def observe(self, cos: Tensor, length: Tensor) -> Tensor:
        """Length - 20 and its square, (2, B).

        From the lengths themselves the variance would be the small difference of two large
        numbers.
        """
        seen = (length.clamp(_SHORTEST, _LONGEST) - _CENTRE).repeat(2, 1)
        seen[1].square_()
        return seen

    def advance(self, state: Tensor, means: Tensor, count: Tensor) -> Tensor:
        """Running mean and standard deviation (with n - 1) of the lengths, (2,).

        The standard deviation of one embedding is unknown and leaves the running one as it is.
        """
        first, second = means.unbind()
        variance = (second - first.square()).clamp_min(0) * count / (count - 1).clamp_min(1)
        batch = state.clone()
        batch[0] = first + _CENTRE
        batch[1] = variance.sqrt().to(state.dtype).where(count > 1, state[1])
        return state.lerp(batch, self.t_alpha)
