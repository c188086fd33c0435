"""Exact nearest neighbours of queries, independent of threads and tile sizes.

Similarities are those of `lookalike.metrics.exact_similarity`, ties are ranked as in
`lookalike.metrics.ranking`: an image of the query's class ranks behind every other one whose
similarity is lower by at most 2^-23.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lookalike.losses.shared_classes import have_common
from lookalike.metrics.class_members import relevant_images
from lookalike.metrics.exact_similarity import TIE, UNIT
from lookalike.metrics.protocol import Roles
from lookalike.metrics.topk import ExactTiles, TopK
from lookalike.metrics.verification import BINS, PairCounts, binned

MOST_QUERIES = 5_000
"""More queries are sampled."""

MOST_SIMILARITIES = 10**9
"""Similarities that are computed: with a large gallery, fewer queries are sampled."""

_BEHIND = TIE + 1.0  # similarities are whole numbers of steps


@dataclass(frozen=True)
class QueryNeighbours:
    """K neighbours each of Q queries among M images.

    Attributes:
        queries: (Q,) int64, ascending, image of each query.
        images: (Q, K) int64, nearest first; -1 where there are no more.
        cosines: (Q, K) float64, NaN where there are no more.
        right: (Q, K) bool, of the query's class.
        match: (Q,) int64, nearest image of the query's class.
        match_cosine: (Q,) float64.
        other: (Q,) int64, nearest image of another class, -1 where there is none.
        other_cosine: (Q,) float64, NaN where there is none.
        pairs: histograms of the cosines of queries to images of their class and of others.
        total: number of possible queries; Q where none was left out.
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
    total: int

    @property
    def wrong(self) -> np.ndarray:
        """(Q,) bool, nearest image is of another class."""
        return ~self.right[:, 0]

    @property
    def margin(self) -> np.ndarray:
        """(Q,) float64, cosine of the nearest image of the class minus that of another class."""
        other = np.where(np.isnan(self.other_cosine), -1.0, self.other_cosine)
        return np.asarray(self.match_cosine - other)


def sample_queries(labels: Tensor, roles: Roles | None, seed: int) -> tuple[Tensor, int]:
    """The images that can be queries, ascending, or a sample of them; and their number.

    `labels` are the (M,) int64 class of each image, or (M, L), -1 behind the last.
    """
    possible = relevant_images(labels, roles) > 0
    if roles is not None:
        possible &= roles.query
    queries = possible.nonzero()[:, 0]
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
    total: int | None = None,
    device: torch.device | None = None,
) -> QueryNeighbours:
    """The nearest images of each query.

    Args:
        vectors: (M, D) of unit length.
        labels: (M,) int64, class of each; or (M, L), -1 behind the last.
        queries: (Q,) int64, ascending, images with another one of their class.
        roles: gallery, and pairs that are left out.
        count: K.
        total: number of possible queries, if `queries` are a sample.
        device: with float64.
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
    return QueryNeighbours(
        queries=queries.cpu().numpy(),
        images=np.where(np.isnan(cosines), -1, images),
        cosines=cosines,
        right=right,
        match=match,
        match_cosine=match_cosine,
        other=np.where(np.isnan(other_cosine), -1, other),
        other_cosine=other_cosine,
        pairs=PairCounts(same, different),
        total=len(queries) if total is None else total,
    )


def _chunk(seen: ExactTiles, rows: Tensor, count: int, histograms: Tensor) -> tuple[Tensor, ...]:
    """Columns of `QueryNeighbours` for the queries `rows`, (b,); adds to (2, BINS) histograms."""
    query = seen.vectors[rows].double()  # (b, D)
    ranked, match, other = TopK(query, count), TopK(query, 1), TopK(query, 1)
    for left, found, same in seen.tiles(rows):
        for histogram, mask in zip(histograms, (same, ~same), strict=True):
            cosines = found[mask & ~found.isinf()] / UNIT
            histogram += binned(cosines).bincount(minlength=BINS)
        match.add(found.masked_fill(~same, -torch.inf), left)
        other.add(found.masked_fill(same, -torch.inf), left)
        # Ties are decided against the query: images of its class rank behind the others.
        ranked.add(found.sub_(same.double() * _BEHIND), left)
    labels = seen.labels if seen.labels.ndim == 2 else seen.labels[:, None]
    right = have_common(labels[rows, None], labels[ranked.images]) & ~ranked.values.isinf()
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
    """Similarities in steps of 2^-52 as cosines; NaN for none."""
    return torch.where(found == -torch.inf, torch.nan, found / UNIT)
