"""ArcFace that turns to the hard classes as training goes on: CurricularFace.

Huang et al., "CurricularFace: Adaptive Curriculum Learning Loss for Deep Face Recognition",
CVPR 2020 (arXiv 2004.00288), and the authors' code (github.com/HuangYG123/CurricularFace).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lookalike.losses.margin import NegativeModulation, RowContext
from lookalike.losses.margins.arcface import ArcFace, turned
from lookalike.losses.metric_loss import parameter

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CurricularFace(ArcFace):
    """ArcFace, and c_j * (t + c_j) for every other class with c_j > cos(angle + margin).

    Such a class is hard: nearer than the true one with its margin. t is the running mean of the
    cosine to the true class, 0 at the start: hard classes count less at first (t + c_j < 1), and
    more when the embeddings have found their classes. The running statistic is (t,).

    Attributes:
        momentum: the share of the new batch in t.
    """

    momentum: float = parameter(0.01, "a number from 0 to 1", 0, 1)

    name = "curricularface"
    initial_state = (0.0,)

    def negatives(self, cos: Tensor, context: RowContext) -> NegativeModulation:
        """Hard classes from cos(angle + margin) on, their cosine c made t * c + c^2."""
        m = math.radians(self.margin)
        return NegativeModulation(
            above=turned(cos, math.cos(m), math.sin(m)),  # (B,)
            linear=context.state[0],
            square=context.state.new_ones(()),
        )

    def observe(self, cos: Tensor, length: Tensor) -> Tensor:
        """The cosine to the true class, before the margin, (1, B)."""
        return cos.clamp(-1, 1)[None]

    def advance(self, state: Tensor, means: Tensor, count: Tensor) -> Tensor:
        """The running mean t, (1,)."""
        return state.lerp(means.to(state.dtype), self.momentum)
