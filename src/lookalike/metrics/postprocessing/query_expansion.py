"""Query expansion and database augmentation: weighted means of vectors with their neighbours.

Alpha query expansion (Radenović et al., Fine-tuning CNN Image Retrieval with No Human Annotation,
2018): a query becomes the weighted mean of itself, with weight 1, and its n nearest in the gallery,
with weight cosine^alpha. Database augmentation (Turcot and Lowe, 2009; Arandjelović and
Zisserman, 2012) does the same with each vector of the gallery, beforehand.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lookalike.metrics.topk import top_matches

NEIGHBOURS = 3
ALPHA = 3.0


@torch.no_grad()
def expand(
    vectors: Tensor,
    gallery: Tensor,
    *,
    neighbours: int = NEIGHBOURS,
    alpha: float = ALPHA,
    groups: Tensor | None = None,
    gallery_groups: Tensor | None = None,
) -> Tensor:
    """The mean of each vector and its nearest in the gallery, (N, D) float32, unit vectors.

    Negative cosines have weight 0. The neighbours of a vector are never of its own group, (N,) and
    (G,) int64.
    """
    found = top_matches(
        vectors, gallery, neighbours, query_groups=groups, gallery_groups=gallery_groups
    )
    weights = found.cosines.clamp(min=0).pow(alpha)  # (N, n); -inf weighs 0
    total = vectors.clone()
    for rank in range(found.places.shape[1]):  # n is small, and N x n x D is not held
        total += weights[:, rank, None] * gallery[found.places[:, rank].clamp(min=0)]
    return F.normalize(total, dim=1)


def augment(gallery: Tensor, *, neighbours: int = NEIGHBOURS, alpha: float = ALPHA) -> Tensor:
    """The mean of each vector of the gallery, (G, D), and its nearest others."""
    own = torch.arange(len(gallery), device=gallery.device)
    return expand(
        gallery, gallery, neighbours=neighbours, alpha=alpha, groups=own, gallery_groups=own
    )
