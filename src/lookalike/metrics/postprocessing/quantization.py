"""Quantization of unit vectors to one byte or one bit a dimension."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

INT8_MAX = 127


def to_int8(vectors: Tensor) -> Tensor:
    """(N, D) unit vectors as (N, D) int8: each row scaled so that its largest coordinate is 127.

    The scale of a row is not kept: it does not change the row's direction, and cosines are of
    directions.
    """
    peak = vectors.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return (vectors / peak * INT8_MAX).round_().to(torch.int8)


def from_int8(stored: Tensor) -> Tensor:
    """(N, D) int8 as unit vectors, (N, D) float32."""
    return F.normalize(stored.float(), dim=1)


def to_bits(vectors: Tensor) -> np.ndarray:
    """(N, D) as (N, ceil(D / 8)) uint8: a bit a dimension, 1 where it is above zero."""
    return np.packbits((vectors > 0).cpu().numpy(), axis=1)


def from_bits(stored: np.ndarray, dim: int) -> Tensor:
    """Bits as unit vectors, (N, D) float32, of coordinates +-1 / sqrt(D).

    Their cosine is 1 - 2 h / D, with h the Hamming distance of the bits.
    """
    signs = np.unpackbits(stored, axis=1, count=dim).astype(np.float32) * 2 - 1
    return torch.from_numpy(signs) / dim**0.5
