"""Proxy Anchor loss (Kim et al., CVPR 2020, arXiv 2003.13911)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lookalike.errors import ConfigError
from lookalike.losses.metric_loss import MetricLoss

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ProxyAnchor(MetricLoss):
    """Mean of P over the classes in the batch, plus mean of N over all classes.

    For a class

        P = log(1 + sum over its images of exp(-scale (s - margin)))
        N = log(1 + sum over the other images of exp(scale (s + margin)))

    with s the cosine between an image and the proxy of the class, which is its class weight.

    Raises:
        ConfigError: a value is out of its range.
    """

    margin: float = 0.1
    scale: float = 32.0

    name = "proxy_anchor"

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 2:  # NaN fails the comparison
            raise ConfigError(
                f"loss.margin={self.margin:g} for {self.name} is not a number from 0 to below 2 (a "
                "difference of cosines); recommended: 0.1"
            )
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ConfigError(
                f"loss.scale={self.scale:g} for {self.name} is not a number above 0; "
                "recommended: 32"
            )

    def positive(self, cos: Tensor) -> Tensor:
        """Exponents of P."""
        return self.scale * (self.margin - cos)

    def negative(self, cos: Tensor) -> Tensor:
        """Exponents of N."""
        return self.scale * (self.margin + cos)
