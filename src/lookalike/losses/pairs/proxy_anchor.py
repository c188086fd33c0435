"""Proxy Anchor loss (Kim et al., CVPR 2020, arXiv 2003.13911)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lookalike.losses.metric_loss import ABOVE_ZERO, MetricLoss, parameter

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ProxyAnchor(MetricLoss):
    """Mean of P over the classes in the batch, plus mean of N over all classes.

    For a class

        P = log(1 + sum over its images of exp(-scale (s - margin)))
        N = log(1 + sum over the other images of exp(scale (s + margin)))

    with s the cosine between an image and the proxy of the class, which is its class weight.
    """

    margin: float = parameter(
        0.1, "a number from 0 to below 2 (a difference of cosines)", 0, math.nextafter(2, 0)
    )
    scale: float = parameter(32.0, "a number above 0", ABOVE_ZERO, math.nextafter(math.inf, 0))

    name = "proxy_anchor"

    def positive(self, cos: Tensor) -> Tensor:
        """Exponents of P."""
        return self.scale * (self.margin - cos)

    def negative(self, cos: Tensor) -> Tensor:
        """Exponents of N."""
        return self.scale * (self.margin + cos)
