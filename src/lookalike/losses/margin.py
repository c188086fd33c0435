"""Margin: the change of the cosine of the true class, by which the losses differ.

Every loss here is a softmax cross-entropy over the classes. With c_j the cosine between an
embedding and the weight of class j, and y the true class, the logits are

    z_j = scale * [norm of the embedding] * [norm of the class weight] * c_j      for j != y
    z_y = the same with target(c_y) in place of c_y

and a margin defines `target` and which of the two norms are in. Some margins also read the length
of the embedding or the size of the class, change the cosines of the other classes, or keep a
running statistic; each of these is one method below, and doing nothing is the default. A margin
has no weights and no collectives: these belong to the head (`lookalike.losses.head`).

The modules of the margins use methods of tensors only and do not import torch, so that a
request can be checked without loading it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from lookalike.errors import ConfigError
from lookalike.losses.metric_loss import MetricLoss

if TYPE_CHECKING:
    from torch import Tensor

# unit -> (allowed values in words, lowest, highest (excluded for cosines))
_RANGES = {
    "cosine": ("a number from 0 to below 2 (a difference of cosines)", 0.0, math.nextafter(2, 0)),
    "degrees": ("0, or 1 to 90 degrees", 0.0, 90.0),
    "multiplier": ("a whole number from 1 to 20 (it multiplies the angle)", 1.0, 20.0),
    "none": ("0: this loss has no margin", 0.0, 0.0),
}


@dataclass(frozen=True)
class RowContext:
    """The rows of a batch as a margin sees them, beside their cosines.

    Attributes:
        length: (B,) lengths of the embeddings, differentiable.
        count: (B,) training images of each row's class; ones where the margin does not use it.
        state: (s,) the margin's running statistics, this batch included; no gradient.
    """

    length: Tensor
    count: Tensor
    state: Tensor


@dataclass(frozen=True)
class NegativeModulation:
    """Change of the cosine c to a class that is not the true one.

    c where c <= above, else linear * c + square * c^2. No gradient flows through these numbers.

    Attributes:
        above: (B,) cosine from which on a class counts as hard.
        linear: () factor.
        square: () factor.
    """

    above: Tensor
    linear: Tensor
    square: Tensor


@dataclass(frozen=True)
class Margin(MetricLoss):
    """Base of all margins.

    Attributes:
        margin: difficulty of the true class, in `unit`.
        scale: the constant that multiplies every logit, above 0.
        unit: of `margin`: "cosine", "degrees", "multiplier" (of the angle) or "none".
        embedding_norm: whether the logits carry the norm of the embedding.
        weight_norm: whether the logits carry the norm of the class weight.
        modifies_target: False where `target` gives the cosine as it is.
        initial_state: the running statistics before the first batch.

    """

    margin: float
    scale: float

    unit: ClassVar[str]
    embedding_norm: ClassVar[bool] = False
    modifies_target: ClassVar[bool] = True
    initial_state: ClassVar[tuple[float, ...]] = ()

    def __post_init__(self) -> None:
        default: dict[str, Any] = {each.name: each.default for each in fields(self)}
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ConfigError(
                f"loss.scale={self.scale:g} for {self.name} is not a number above 0; "
                f"recommended: {default['scale']:g}"
            )
        words, lowest, highest = _RANGES[self.unit]
        recommended = f"recommended: {default['margin']:g}"
        place = f"loss.margin={self.margin:g} for {self.name}"
        if self.unit == "degrees" and 0 < self.margin < 1:
            raise ConfigError(
                f"{place} is in degrees, and {self.margin:g} looks like radians; "
                f"{math.degrees(self.margin):.1f} degrees is the same "
                f"(allowed: {words}; {recommended})"
            )
        whole = self.unit != "multiplier" or float(self.margin).is_integer()
        if not (lowest <= self.margin <= highest and whole):  # NaN fails the comparison
            raise ConfigError(f"{place} is not {words}; {recommended}")
        super().__post_init__()

    @abstractmethod
    def target(self, cos: Tensor, context: RowContext) -> Tensor:
        """The cosine to the true class with the margin, (B,).

        Differentiable by autograd, with slopes that are finite everywhere. Rounding may carry
        `cos` (B,) a little past -1 and 1.
        """

    def negatives(self, cos: Tensor, context: RowContext) -> NegativeModulation | None:
        """Change of the other classes' cosines by the true one (B,), which has no gradient."""
        return None

    def penalty(self, context: RowContext) -> Tensor | None:
        """A term added to the loss of each row, (B,)."""
        return None

    def observe(self, cos: Tensor, length: Tensor) -> Tensor:
        """Numbers of each row, (k, B), whose means over the global batch `advance` takes."""
        return cos.new_empty(0, len(cos))

    def advance(self, state: Tensor, means: Tensor, count: Tensor) -> Tensor:
        """The running statistics (s,) after a batch of `count` () rows with these means (k,)."""
        return state
