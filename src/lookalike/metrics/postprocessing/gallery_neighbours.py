"""The nearest of a gallery for each query, streamed: the similarities are never held whole.

In float32, for what is a means to another ranking (expansion, re-ranking): exact similarities, as
in `metrics.first_results`, would take several times as long and change what is at the edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lookalike.metrics.topk import Best

_QUERIES = 1024  # rows of a tile
_TILE = 8192  # columns of a tile


@dataclass(frozen=True)
class Neighbours:
    """What each of Q queries finds, the most similar first.

    Attributes:
        cosines: (Q, k) float32; -inf where a query finds fewer than k.
        places: (Q, k) int64, rows of the gallery; -1 where a query finds fewer than k.
        lowest: (Q,) float32, the smallest cosine to any vector of the gallery.
    """

    cosines: Tensor
    places: Tensor
    lowest: Tensor


@torch.no_grad()
def nearest(
    queries: Tensor,
    gallery: Tensor,
    k: int,
    *,
    query_groups: Tensor | None = None,
    gallery_groups: Tensor | None = None,
) -> Neighbours:
    """The k most similar of the gallery for each query.

    Args:
        queries: (Q, D) float32, unit vectors.
        gallery: (G, D) float32, unit vectors.
        k: how many; at most G are found.
        query_groups: (Q,) int64: a query never finds a vector of its own group.
        gallery_groups: (G,) int64.
    """
    k = min(k, len(gallery))
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for begin in range(0, len(queries), _QUERIES):
        rows = queries[begin : begin + _QUERIES]
        best = Best(rows, k)
        lowest = rows.new_full((len(rows),), torch.inf)
        for left in range(0, len(gallery), _TILE):
            tile = rows @ gallery[left : left + _TILE].T  # (b, T)
            lowest = torch.minimum(lowest, tile.amin(1))
            if query_groups is not None and gallery_groups is not None:
                own = query_groups[begin : begin + _QUERIES, None]
                tile.masked_fill_(own == gallery_groups[left : left + _TILE], -torch.inf)
            best.add(tile, left)
        none = best.values == -torch.inf
        found.append((best.values, best.images.masked_fill(none, -1), lowest))
    if not found:
        nobody = queries.new_empty(0, k)
        return Neighbours(nobody, nobody.long(), queries.new_empty(0))
    return Neighbours(*(torch.cat(parts) for parts in zip(*found, strict=True)))
