"""Unit vectors, cosines and logits: the formulas between the head and a margin."""

from __future__ import annotations

import torch
from torch import Tensor

from lookalike.losses.chunk_softmax import LogitModulation
from lookalike.losses.margin import Margin, RowContext

# A vector shorter than this has no direction: its cosine with everything is 0, and no gradient
# flows through its direction (1/norm would be one of 1e12 and more).
SHORTEST = 1e-12


def unit_rows(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors (B, D) at length 1, zeros where they have no direction, and their lengths (B,)."""
    norm = torch.linalg.vector_norm(vectors, dim=1)  # (B,)
    inverse = (norm > SHORTEST) / norm.clamp_min(SHORTEST)  # (B,)
    return vectors * inverse[:, None], norm


def inverse_norms(weight: Tensor, out: Tensor) -> Tensor:
    """1 / length of each row, (n,), written to `out`; 0 for rows without a direction."""
    norm = torch.linalg.vector_norm(weight, dim=1, dtype=out.dtype, out=out)
    short = norm <= SHORTEST
    return norm.clamp_min_(SHORTEST).reciprocal_().masked_fill_(short, 0)


def target_logits(
    margin: Margin, raw: Tensor, weight_length: Tensor, context: RowContext
) -> Tensor:
    """The true classes' logits with the margin, (B,), from those without; differentiable."""
    if not margin.modifies_target:
        return raw
    norms = torch.full_like(raw, margin.scale)  # what the cosine is multiplied by
    if margin.embedding_norm:
        norms = norms * context.length
    if margin.weight_norm:
        norms = norms * weight_length
    directed = norms > 0
    cos = raw.where(directed, 0) / norms.where(directed, 1)
    return margin.target(cos, context) * norms


def logit_modulation(
    margin: Margin, cos: Tensor, context: RowContext, limit: float | None
) -> LogitModulation | None:
    """Change of the other classes' logits by the margin, and by the limit on their cosines.

    `cos` (B,) are the cosines to the true class, without gradient.
    """
    change = margin.negatives(cos, context)
    if change is None and limit is None:
        return None
    scale = torch.full_like(cos, margin.scale)
    if margin.embedding_norm:
        scale = scale * context.length.detach()
    never, ones = torch.full_like(cos, torch.inf), torch.ones_like(cos)
    return LogitModulation(
        above=never if change is None else change.above * scale,
        linear=ones if change is None else change.linear * ones,
        square=ones if change is None else change.square / scale,
        limit=never if limit is None else limit * scale,
    )
