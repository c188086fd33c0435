"""Directions of vectors, where a vector may have none."""

import torch
from torch import Tensor

# A vector shorter than this has no direction: its cosine with everything is 0, and no gradient
# flows through its direction (1/norm would be one of 1e12 and more).
SHORTEST = 1e-12


def unit_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of length 1 and the lengths they had; a row without a direction becomes zeros.

    Args:
        rows: (B, D).

    Returns:
        (B, D) and (B,), both differentiable.
    """
    norm = torch.linalg.vector_norm(rows, dim=1)  # (B,)
    inverse = (norm > SHORTEST) / norm.clamp_min(SHORTEST)  # (B,)
    return rows * inverse[:, None], norm


def inverse_norms(weight: Tensor, out: Tensor) -> Tensor:
    """1 / length of each row, (n,), written to `out`; 0 for rows without a direction."""
    norm = torch.linalg.vector_norm(weight, dim=1, dtype=out.dtype, out=out)
    short = norm <= SHORTEST
    return norm.clamp_min_(SHORTEST).reciprocal_().masked_fill_(short, 0)
