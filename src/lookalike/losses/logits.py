"""From a margin, which speaks of cosines, to logits."""

from __future__ import annotations

import torch
from torch import Tensor

from lookalike.losses.chunk_softmax import LogitBend
from lookalike.losses.margin import Margin, Rows


def target_logits(margin: Margin, raw: Tensor, target_length: Tensor, rows: Rows) -> Tensor:
    """The logits of the true classes with the margin, (B,), differentiable.

    Args:
        margin: of the head.
        raw: (B,) the same without it.
        target_length: (B,) length of the true class's weight.
        rows: what else is known of the rows.
    """
    if not margin.bends_target:
        return raw
    norms = torch.full_like(raw, margin.scale)  # what the cosine is multiplied by
    if margin.embedding_norm:
        norms = norms * rows.length
    if margin.weight_norm:
        norms = norms * target_length
    directed = norms > 0
    cos = raw.where(directed, 0) / norms.where(directed, 1)
    return margin.target(cos, rows) * norms


def bent_logits(margin: Margin, cos: Tensor, rows: Rows, limit: float | None) -> LogitBend | None:
    """What becomes of the other classes' logits, from what a margin does to their cosines.

    Args:
        margin: of the head.
        cos: (B,) cosines to the true class, no gradient.
        rows: what else is known of the rows.
        limit: cosine above which a class is left out; None for no such limit.
    """
    bend = margin.negatives(cos, rows)
    if bend is None and limit is None:
        return None
    scale = torch.full_like(cos, margin.scale)
    if margin.embedding_norm:
        scale = scale * rows.length.detach()
    never, ones = torch.full_like(cos, torch.inf), torch.ones_like(cos)
    return LogitBend(
        above=never if bend is None else bend.above * scale,
        linear=ones if bend is None else bend.linear * ones,
        square=ones if bend is None else bend.square / scale,
        limit=never if limit is None else limit * scale,
    )
