"""Base of all losses on the embedding: what the parts of a run ask any of them."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar


class MetricLoss(ABC):
    """A loss on the embedding: formula and numbers, without weights and collectives.

    Attributes:
        name: the key in the registry, and in `loss.name`.
        margin: None where the loss has none.
        scale: of the logits; None where the loss has none.
        has_class_weights: whether embeddings are compared with class weights; else with each other.
        needs_positives: whether a batch must hold several images of a class.
        uses_length: whether the loss reads the length of the embedding, which the network must
            then be free to choose.
        uses_count: whether it reads the number of training images of the class.
        weight_norm: whether it reads the norm of the class weights.
    """

    name: ClassVar[str]
    margin: float | None
    scale: float | None
    has_class_weights: ClassVar[bool] = True
    needs_positives: ClassVar[bool] = False
    uses_length: ClassVar[bool] = False
    uses_count: ClassVar[bool] = False
    weight_norm: ClassVar[bool] = False

    def warning(self) -> str | None:
        """A plain sentence about a setting that is known to train badly, or None."""
        return None
