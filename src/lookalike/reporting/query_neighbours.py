"""What each query finds: its closest images, exactly, and how near same and different ones lie.

Similarities are the exact ones of `lookalike.metrics.exact_similarity`, so they, and with them the
page, are the same whatever the number of threads and the size of a tile. The rule for ties is that
of `lookalike.metrics.ranking`: an image of the query's class ranks behind every other whose
similarity is lower by at most 2^-23.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lookalike.metrics.exact_similarity import TIE, UNIT
from lookalike.metrics.protocol import Roles, relevant_of
from lookalike.metrics.topk import ExactTiles, TopK
from lookalike.metrics.verification import BINS, PairCounts, binned

MOST_QUERIES = 5_000
"""Queries that are looked at; a sample stands for more of them."""

MOST_SIMILARITIES = 10**9
"""Similarities that are computed: fewer queries are looked at where the gallery is large."""

_BEHIND = TIE + 1.0  # similarities are whole numbers of steps


@dataclass(frozen=True)
class Neighbours:
    """What Q queries find among M images; K neighbours each.

    Attributes:
        queries: (Q,) int64, ascending: which image asks.
        images: (Q, K) int64, its closest images, closest first; -1 where there are no more.
        cosines: (Q, K) float64, NaN where there are no more.
        right: (Q, K) bool, whether they are of the query's class.
        match: (Q,) int64, the closest image of its class.
        match_cosine: (Q,) float64.
        other: (Q,) int64, the closest image of another class, -1 where there is none.
        other_cosine: (Q,) float64, NaN where there is none.
        pairs: how alike queries are to images of their class and of others.
        of: how many images could ask; Q where all were looked at.
    """

    queries: np.ndarray
    images: np.ndarray
    cosines: np.ndarray
    right: np.ndarray
    match: np.ndarray
    match_cosine: np.ndarray
    other: np.ndarray
    other_cosine: np.ndarray
    pairs: PairCounts
    of: int

    @property
    def wrong(self) -> np.ndarray:
        """Whether the closest image is of another class, (Q,) bool."""
        return ~self.right[:, 0]

    @property
    def lead(self) -> np.ndarray:
        """How much closer the right one is than the closest wrong one, (Q,) float64."""
        other = np.where(np.isnan(self.other_cosine), -1.0, self.other_cosine)
        return np.asarray(self.match_cosine - other)


def sample_queries(labels: Tensor, roles: Roles | None, seed: int) -> tuple[Tensor, int]:
    """The images that ask, ascending, or a sample of them; and how many there are.

    Args:
        labels: (M,) int64, the class of each image.
        roles: who asks and who is searched.
        seed: another seed draws another sample.
    """
    _, classes = torch.unique(labels, return_inverse=True)
    asks = relevant_of(classes, roles) > 0
    if roles is not None:
        asks &= roles.query
    queries = asks.nonzero()[:, 0]
    most = max(1, min(MOST_QUERIES, MOST_SIMILARITIES // max(1, len(labels))))
    if len(queries) <= most:
        return queries, len(queries)
    drawn = np.random.default_rng(seed).choice(len(queries), most, replace=False)
    return queries[torch.from_numpy(np.sort(drawn))], len(queries)


@torch.no_grad()
def find_neighbours(
    vectors: Tensor,
    labels: Tensor,
    queries: Tensor,
    *,
    roles: Roles | None = None,
    count: int = 8,
    of: int | None = None,
    device: torch.device | None = None,
) -> Neighbours:
    """The closest images of each query.

    Args:
        vectors: (M, D) of unit length.
        labels: (M,) int64, the class of each.
        queries: (Q,) int64, ascending, images that have one of their class to find.
        roles: who is searched, and who never meets.
        count: K, how many neighbours.
        of: how many images could ask, if `queries` are a sample.
        device: where to compute; it must know float64.
    """
    device = torch.device("cpu") if device is None or device.type == "mps" else device
    seen = ExactTiles.of(vectors, labels, roles, device)
    count = min(count, max(1, len(labels) - 1))
    histograms = torch.zeros(2, BINS, dtype=torch.int64, device=device)
    parts = [_chunk(seen, rows, count, histograms) for rows in seen.batches(queries)]
    images, cosines, right, match, match_cosine, other, other_cosine = (
        torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)
    )
    same, different = histograms.cpu().numpy()
    return Neighbours(
        queries=queries.cpu().numpy(),
        images=np.where(np.isnan(cosines), -1, images),
        cosines=cosines,
        right=right,
        match=match,
        match_cosine=match_cosine,
        other=np.where(np.isnan(other_cosine), -1, other),
        other_cosine=other_cosine,
        pairs=PairCounts(same, different),
        of=len(queries) if of is None else of,
    )


def _chunk(seen: ExactTiles, rows: Tensor, count: int, histograms: Tensor) -> tuple[Tensor, ...]:
    """The columns of `Neighbours` for the queries `rows`, (b,); adds to the (2, BINS) pairs."""
    query = seen.vectors[rows].double()  # (b, D)
    ranked, match, other = TopK(query, count), TopK(query, 1), TopK(query, 1)
    for left, found, same in seen.tiles(rows):
        for histogram, mask in zip(histograms, (same, ~same), strict=True):
            cosines = found[mask & ~found.isinf()] / UNIT
            histogram += binned(cosines).bincount(minlength=BINS)
        match.add(found.masked_fill(~same, -torch.inf), left)
        other.add(found.masked_fill(same, -torch.inf), left)
        # A tie is decided against the query: those of its class step back behind it.
        ranked.add(found.sub_(same.double() * _BEHIND), left)
    right = (seen.labels[rows, None] == seen.labels[ranked.images]) & ~ranked.values.isinf()
    return (
        ranked.images,
        _cosine(ranked.values + right.double() * _BEHIND),
        right,
        match.images[:, 0],
        _cosine(match.values[:, 0]),
        other.images[:, 0],
        _cosine(other.values[:, 0]),
    )


def _cosine(found: Tensor) -> Tensor:
    """Similarities in steps of 2^-52 as cosines; NaN where there was nothing to find."""
    return torch.where(found == -torch.inf, torch.nan, found / UNIT)
