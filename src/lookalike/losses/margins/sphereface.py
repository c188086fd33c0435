"""Margins that multiply the angle: large-margin softmax and SphereFace.

Liu et al., "Large-Margin Softmax Loss for Convolutional Neural Networks", ICML 2016
(arXiv 1612.02295); Liu et al., "SphereFace: Deep Hypersphere Embedding for Face Recognition",
CVPR 2017 (arXiv 1704.08063).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lookalike.losses.margin import Margin, RowContext

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LargeMarginSoftmax(Margin):
    """z_y = scale * |e| * |w_y| * psi(angle), psi = (-1)^k cos(m * angle) - 2k.

    k = floor(m * angle / pi), at most m - 1, makes psi fall monotonically from 1 to 1 - 2m.
    """

    name = "large_margin_softmax"
    unit = "multiplier"
    margin: float = 4.0
    scale: float = 1.0
    embedding_norm = True
    weight_norm = True

    def target(self, cos: Tensor, context: RowContext) -> Tensor:
        """The value psi of the angle, (B,)."""
        m = int(self.margin)
        # cos(m * angle) is the Chebyshev polynomial T_m(cos): unlike acos, it has a finite slope
        # everywhere.
        before, chebyshev = cos.new_ones(()), cos
        for _ in range(m - 1):
            before, chebyshev = chebyshev, 2 * cos * chebyshev - before
        angle = cos.detach().clamp(-1, 1).acos()
        # At angle = pi the floor gives m: the same value of psi, but a slope of the wrong sign.
        k = (angle * (m / math.pi)).floor().clamp_max(m - 1)
        return (1 - 2 * (k % 2)) * chebyshev - 2 * k

    def warning(self) -> str | None:
        """Text where the margin is above 2, which makes a hard start."""
        if self.margin <= 2:
            return None
        # At 90 degrees, where training starts, psi is 1 - m for even m, against 0 for the other
        # classes. The papers start close to the plain cosine and anneal for this reason.
        return (
            f"loss.margin={self.margin:g} for {self.name} makes a hard start; if the loss stays "
            "near ln(number of classes), use loss.margin=2"
        )


@dataclass(frozen=True)
class SphereFace(LargeMarginSoftmax):
    """Large-margin softmax with class weights of unit length.

    The logit of the true class is at most scale * |e|. With embeddings of a fixed length of 1 or
    so, as our neck and the original's give them, the recommended scale of 1 can hardly tell many
    classes apart.
    """

    name = "sphereface"
    weight_norm = False

    ENOUGH_SCALE = 8.0

    def warning(self) -> str | None:
        """Text where a small scale bounds the loss from below."""
        if self.scale >= self.ENOUGH_SCALE:
            return super().warning()
        return (
            f"loss.scale={self.scale:g} for sphereface: the logit of the true class is at most "
            "scale times the length of the embedding, so with many classes the loss can hardly "
            "fall; loss.scale=20 with loss.margin=2 learns better"
        )
