"""Interface of a contender: class weights, their momentum, and one whole step.

All do the same work on the same numbers: forward, backward, update. `benchmarks/head.py` holds
their outputs against a float64 reference before it times anything.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

MARGIN, SCALE = 28.6, 64.0  # ArcFace's: degrees, and what multiplies the cosine


class NotRunError(Exception):
    """Reason that a contender cannot run here."""


@dataclass(frozen=True)
class Shape:
    """Setting that all contenders of a comparison share.

    Attributes:
        partial_fc: folder of insightface's partial_fc_v2.py and losses.py, or None.
        lr: of SGD. Small by default, so that the softmax stays what it is at the start of
            training however often the one batch is repeated.
    """

    batch: int
    dim: int
    classes: int
    device: str = "cpu"
    partial_fc: str | None = None
    lr: float = 1e-4
    weight_decay: float = 5e-4
    momentum: float = 0.9


class Contender(ABC):
    """One head with its optimizer.

    Attributes:
        margin: "arcface" (28.6 degrees, scale 64) or "softmax" (logits are inner products).
        sample_rate: part of the classes that a step looks at.
        itemsize: bytes of a number of the weight and of its momentum.
        true_slope: whether the derivative of the margin is in the gradient.
    """

    margin = "arcface"
    sample_rate = 1.0
    itemsize = 4
    true_slope = True

    @abstractmethod
    def step(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        """Forward, backward, update; the loss before the update, a scalar without a graph.

        `embeddings` (B, D) is a float32 leaf, whose gradient is in `.grad` afterwards.
        """

    @abstractmethod
    def weights(self) -> Tensor:
        """(C, D) class weights: a view of those that are trained."""

    def sample(self, classes: Tensor) -> Tensor | None:
        """The classes that the last step, of `classes` (B,), looked at, ascending; None for all."""
        return None


Maker = Callable[[Shape], Contender]


def make_batch(shape: Shape) -> tuple[Tensor, Tensor]:
    """Embeddings (B, D), a leaf that wants a gradient, and classes (B,)."""
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(shape.batch, shape.dim, generator=generator)
    classes = torch.randint(0, shape.classes, (shape.batch,), generator=generator)
    return embeddings.to(shape.device).requires_grad_(), classes.to(shape.device)


def arcface_cosine(cos: Tensor) -> Tensor:
    """cos(angle + margin) of the true class; past 180 degrees, cos - m sin(m)."""
    m = math.radians(MARGIN)
    sin = (1 - cos * cos).clamp_min(1e-14).sqrt()
    added = cos * math.cos(m) - sin * math.sin(m)
    return torch.where(cos >= -math.cos(m), added, cos - m * math.sin(m))
