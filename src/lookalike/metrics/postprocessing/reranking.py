"""k-reciprocal re-ranking (Zhong et al., Re-ranking Person Re-identification with k-reciprocal
Encoding, 2017), sparse: memory grows with the number of images, not with its square.

Two images that are among each other's nearest are likely the same thing. Each image gets a sparse
vector of such reciprocal neighbours; the distance of a query to an image of the gallery becomes
(1 - lambda) Jaccard distance of these vectors + lambda original distance. The graph is over the
queries and the gallery together, as in the paper and its authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from lookalike.metrics.topk import top_matches

# Squared distances of float32 unit vectors below this are rounding.
_ROUNDING = 2e-6


@dataclass(frozen=True)
class Reranking:
    """The parameters of the paper."""

    k1: int = 20  # neighbours that may be reciprocal
    k2: int = 6  # neighbours over which a vector of neighbours is averaged
    weight: float = 0.3  # lambda, of the original distance


def rerank(
    queries: Tensor,
    gallery: Tensor,
    depth: int,
    *,
    reranking: Reranking | None = None,
    query_groups: Tensor | None = None,
    gallery_groups: Tensor | None = None,
) -> Tensor:
    """The first `depth` of the gallery for each query, by the new distance.

    Queries, (Q, D), and gallery, (G, D), are float32 unit vectors. A query never finds a vector of
    its own group, (Q,) and (G,) int64.

    Returns:
        (Q, min(depth, G)) int64, rows of the gallery, nearest first; -1 where a query may find
        fewer.
    """
    parameters = reranking or Reranking()
    count = len(queries)
    together = torch.cat([queries, gallery])
    graph = NeighbourGraph(together, parameters.k1)
    weights = _smoothed(graph.reciprocal_weights(parameters.k1), graph.places, parameters.k2)
    columns = weights[count:].tocsc()  # (G, N) by column: images with this neighbour
    first = top_matches(
        queries, gallery, depth, query_groups=query_groups, gallery_groups=gallery_groups
    )
    depth = first.places.shape[1]
    result = np.full((count, depth), -1, dtype=np.int64)
    for row in range(count):
        shared = _shared(weights.indptr, weights.indices, weights.data, columns, row, len(gallery))
        # Images without shared neighbours keep their order behind (1 - lambda).
        candidates = np.union1d(first.places[row].numpy(), np.flatnonzero(shared))
        candidates = candidates[candidates >= 0]
        if query_groups is not None and gallery_groups is not None:
            candidates = candidates[(gallery_groups[candidates] != query_groups[row]).numpy()]
        original = graph.distance(row, gallery[candidates] @ queries[row])
        jaccard = 1 - shared[candidates] / (2 - shared[candidates])
        final = (1 - parameters.weight) * jaccard + parameters.weight * original
        order = candidates[np.lexsort((candidates, final))][:depth]
        result[row, : len(order)] = order
    return torch.from_numpy(result)


class NeighbourGraph:
    """Nearest neighbours among all images, each its own first.

    Distances are squared, 2 - 2 cos, and divided by the largest distance of the image to any other.
    """

    def __init__(self, vectors: Tensor, k1: int) -> None:
        found = top_matches(vectors, vectors, k1 + 1)
        own = torch.arange(len(vectors))[:, None]
        # Exact copies can stand before the image itself, or crowd it out.
        first = (found.places != own).to(torch.int8).sort(dim=1, stable=True).indices
        places = found.places.gather(1, first)
        places[:, :1] = own
        self.places = places.numpy()  # (N, k1 + 1)
        self._largest = np.maximum(_squared(found.lowest), _ROUNDING)  # (N,)
        self._vectors = vectors

    def distance(self, row: int, cosines: Tensor) -> np.ndarray:
        """Distances of image `row` to images of these cosines, from 0 to 1.

        The largest comes from a product of another shape, which rounds otherwise: among copies of
        one image there are only rounding errors, which must not exceed 1.
        """
        return np.minimum(_squared(cosines) / self._largest[row], 1)

    def reciprocal_weights(self, k1: int) -> sparse.csr_matrix:
        """(N, N): exp(-distance) of the reciprocal neighbours, each row a sum of 1."""
        count = len(self.places)
        half = round(k1 / 2)
        full, small = self._reciprocal(k1), self._reciprocal(half)
        rows, columns, values = [], [], []
        for row in range(count):
            own = full[row]
            expanded = [own]
            for candidate in own:
                more = small[candidate]
                if len(np.intersect1d(more, own, assume_unique=True)) > 2 / 3 * len(more):
                    expanded.append(more)
            kept = np.unique(np.concatenate(expanded))
            near = self._distances(row, kept)
            weight = np.exp(-near)
            rows.append(np.full(len(kept), row))
            columns.append(kept)
            values.append(weight / weight.sum())
        flat = (np.concatenate(rows), np.concatenate(columns))
        return sparse.csr_matrix((np.concatenate(values), flat), shape=(count, count))

    def _distances(self, row: int, others: np.ndarray) -> np.ndarray:
        return self.distance(row, self._vectors[others] @ self._vectors[row])

    def _reciprocal(self, k: int) -> list[np.ndarray]:
        """For each image, those of its k nearest, and itself, that have it among theirs."""
        near = self.places[:, : k + 1]
        mutual = (near[near] == np.arange(len(near))[:, None, None]).any(2)  # (N, k + 1)
        return [row[keep] for row, keep in zip(near, mutual, strict=True)]


def _squared(cosines: Tensor) -> np.ndarray:
    """Squared distances of unit vectors; never below 0, whatever the cosines were rounded to."""
    return np.maximum(2 - 2 * cosines.numpy().astype(np.float64), 0)


def _smoothed(weights: sparse.csr_matrix, places: np.ndarray, k2: int) -> sparse.csr_matrix:
    """Each row the mean of those of its k2 nearest, itself among them (local query expansion)."""
    if k2 <= 1:
        return weights
    near = places[:, :k2]
    count, width = near.shape
    mean = sparse.csr_matrix(
        (np.full(near.size, 1 / width), (np.repeat(np.arange(count), width), near.ravel())),
        shape=(count, count),
    )
    return (mean @ weights).tocsr()


def _shared(
    pointers: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    columns: sparse.csc_matrix,
    row: int,
    count: int,
) -> np.ndarray:
    """sum_k min(V[row, k], V[j, k]) for each image j of the gallery: (count,)."""
    total = np.zeros(count)
    for place in range(pointers[row], pointers[row + 1]):
        column = indices[place]
        begin, end = columns.indptr[column], columns.indptr[column + 1]
        np.add.at(
            total, columns.indices[begin:end], np.minimum(values[place], columns.data[begin:end])
        )
    return total
