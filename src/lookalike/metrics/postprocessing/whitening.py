"""Linear maps of embeddings, fitted after training: whitening, principal axes, truncation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SHRINKAGE = 1e-3  # of the mean variance, added to each: directions without data stay finite


def whitening(vectors: Tensor, dim: int | None = None) -> tuple[Tensor, Tensor]:
    """The map after which `vectors` have mean 0 and the covariance of a sphere.

    y = normalise(A (x - m)) with A = diag(v + s)^-1/2 U, where U are the first `dim` principal
    axes and v the variances along them (Jégou and Chum, Negative evidences and co-occurrences in
    image retrieval: the benefit of PCA and whitening, 2012); s is a thousandth of the mean
    variance. Axes that the data do not span (fewer images than dimensions) are left out.

    Args:
        vectors: (N, D), unit vectors of images that are not measured.
        dim: number of axes; by default all that the data span.

    Returns:
        m, (D,) float32, and A, (dim, D) float32.

    Raises:
        ValueError: there are fewer than two vectors.
    """
    if len(vectors) < 2:
        raise ValueError(f"whitening needs two vectors at least, got {len(vectors)}")
    x = vectors.double()
    mean = x.mean(0)
    x = x - mean
    variances, axes = torch.linalg.eigh(x.T @ x / len(x))  # ascending; axes are columns
    variances, axes = variances.flip(0).clamp(min=0), axes.flip(1)
    spanned = int((variances > variances[0] * 1e-9).sum())
    keep = max(1, min(dim or len(variances), spanned, len(x) - 1))
    # The sign of an axis is arbitrary: its largest coordinate is made positive.
    axes = axes[:, :keep]
    largest = axes.abs().argmax(0)
    axes = axes * axes.gather(0, largest[None]).sign()
    scale = (variances[:keep] + _SHRINKAGE * variances.mean()).clamp(min=1e-12).rsqrt()
    return mean.float(), (scale[:, None] * axes.T).float().contiguous()


def truncation(full: int, dim: int) -> tuple[Tensor, Tensor]:
    """The map to the first `dim` of `full` dimensions, in the form of `whitening`."""
    return torch.zeros(full), torch.eye(full)[:dim].contiguous()


def project(vectors: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    """normalise(matrix (x - mean)) for each row: (N, D) -> (N, dim)."""
    return F.normalize((vectors - mean) @ matrix.T, dim=1)
