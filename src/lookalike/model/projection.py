"""Linear map behind a finished model, fitted after training: whitening, fewer dimensions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Projection(nn.Module):
    """normalise(matrix (x - mean)) of unit vectors x; mean (D,) and matrix (D', D) in float32."""

    mean: Tensor
    matrix: Tensor

    def __init__(self, mean: Tensor, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("matrix", matrix)

    @classmethod
    def empty(cls, dim: int, out_dim: int) -> Projection:
        """One to load weights into."""
        return cls(torch.zeros(dim), torch.zeros(out_dim, dim))

    def forward(self, vectors: Tensor) -> Tensor:
        """Unit vectors (B, D') of unit vectors (B, D)."""
        mean, matrix = self.mean.to(vectors), self.matrix.to(vectors)  # as after `half()`
        return F.normalize((vectors - mean) @ matrix.T, dim=1)
