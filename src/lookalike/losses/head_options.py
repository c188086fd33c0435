"""How a head computes."""

from dataclasses import dataclass

import torch

from lookalike.losses.fused_update import UpdateRule
from lookalike.losses.margin import Margin


@dataclass(frozen=True)
class HeadOptions:
    """How a head computes; none of it changes what is minimised but the last two.

    Attributes:
        centres: rows of the weight a class, of which the nearest counts (Deng et al.,
            Sub-center ArcFace, ECCV 2020).
        chunk: classes at once; None for a default by device.
        precision: dtype of the products; None for that of the embeddings.
        dtype: of the weight and its optimizer state; float32, or bfloat16 with `update`.
        update: the optimizer that changes the weight chunk by chunk; None leaves a
            gradient to an ordinary one.
        stash: memory for logits that wait for the backward pass, as a share of weight and
            momentum; None for a default by device.
        sample_rate: part of the classes that each step looks at besides the batch's own; below 1
            with `update`.
        filter_above: other classes whose cosine is above this are left out of the sum (inter-class
            filtering, Partial FC, arXiv 2203.15565); None for no filter.
    """

    centres: int = 1
    chunk: int | None = None
    precision: torch.dtype | None = None
    dtype: torch.dtype = torch.float32
    update: UpdateRule | None = None
    stash: float | None = None
    sample_rate: float = 1.0
    filter_above: float | None = None

    def __post_init__(self) -> None:
        if self.centres < 1 or (self.chunk is not None and self.chunk < 1):
            raise ValueError(f"centres={self.centres}, chunk={self.chunk}: not positive")
        if not 0 < self.sample_rate <= 1:
            raise ValueError(f"sample_rate={self.sample_rate} is not in (0, 1]")
        if self.update is None and (self.sample_rate < 1 or self.dtype == torch.bfloat16):
            raise ValueError("sample_rate below 1 and a weight in bfloat16 need update")

    def check(self, margin: Margin, label_smoothing: float) -> None:
        """Whether a margin can be computed so.

        Raises:
            ValueError: it cannot.
        """
        if self.centres > 1 and margin.weight_norm:
            raise ValueError(f"several centres need normalised classes; {margin.name} has none")
        if self.filter_above is not None and (label_smoothing or margin.weight_norm):
            raise ValueError("filter_above needs normalised classes, and no label smoothing")
