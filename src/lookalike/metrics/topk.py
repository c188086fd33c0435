"""The highest of many similarities, of which only a tile exists at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lookalike.distributed.world import World
from lookalike.losses.shared_classes import share_class
from lookalike.metrics.exact_similarity import UNIT, unit_integers
from lookalike.metrics.protocol import Roles

QUERIES = 1024
"""Rows of a tile of similarities at most."""

TILE = 4096
"""Columns of an exact tile: 32 MiB."""

FLOAT32_TILE = 8192
"""Columns of a tile in float32."""


class TopK:
    """The highest similarities of each query so far, and their images.

    Of equal ones those of the first images count, and stand first: nothing depends on tiles.

    Attributes:
        values: (b, K), the highest first; K grows up to `count` with the images that were seen.
        images: (b, K) int64.

    Args:
        like: (b, ...): of as many queries, of the similarities' type, on their device.
        count: how many to keep, at least 1.
    """

    def __init__(self, like: Tensor, count: int) -> None:
        self.values = like.new_empty((len(like), 0))
        self.images = torch.empty((len(like), 0), dtype=torch.int64, device=like.device)
        self._count = count

    def add(self, found: Tensor, left: int) -> None:
        """Merge a tile, (b, T), of the images from `left` on, which follow all before."""
        values, places = _highest(found, min(self._count, found.shape[1]))
        values = torch.cat([self.values, values], 1)
        images = torch.cat([self.images, places + left], 1)
        # Stable: of equal ones, those that came first.
        values, order = values.sort(dim=1, descending=True, stable=True)
        self.values = values[:, : self._count]
        self.images = images.gather(1, order[:, : self._count])


def _highest(found: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The highest of each row of (b, T) and their places, (b, count); ties by place."""
    if count == 1:
        values, places = found.max(1, keepdim=True)  # the first of equal ones
        return values, places
    # Which of equal ones topk takes is its own choice. One more than needed shows if it had any.
    more = found.topk(min(count + 1, found.shape[1]), dim=1)
    values, places = more.values[:, :count], more.indices[:, :count]
    last = values[:, -1]
    chosen = (more.values[:, -1] == last) & (last > -torch.inf)
    if more.values.shape[1] > count and bool(chosen.any()):
        places = places.clone()
        places[chosen] = _first_of_equal(found[chosen], last[chosen, None], count)
    places = places.sort(1).values
    return found.gather(1, places), places


def _first_of_equal(found: Tensor, last: Tensor, count: int) -> Tensor:
    """Places of what is above `last`, (n, 1), and of the first that equal it: (n, count)."""
    above, equal = found > last, found == last
    room = count - above.sum(1, keepdim=True)
    above |= equal & (equal.cumsum(1) <= room)
    return above.nonzero()[:, 1].view(-1, count)


@dataclass(frozen=True)
class Matches:
    """The k most similar vectors of a gallery for each of Q queries, in float32."""

    cosines: Tensor  # (Q, k) float32, descending; -inf where a query finds fewer than k
    places: Tensor  # (Q, k) int64, rows of the gallery; -1 where a query finds fewer than k
    lowest: Tensor  # (Q,) float32, the smallest cosine to any vector of the gallery


@torch.no_grad()
def top_matches(
    queries: Tensor,
    gallery: Tensor,
    k: int,
    *,
    query_groups: Tensor | None = None,
    gallery_groups: Tensor | None = None,
) -> Matches:
    """The k most similar of (G, D) unit vectors for each of (Q, D), in float32.

    A step towards another ranking (expansion, re-ranking): `nearest_images` is exact, and several
    times as slow. A query never finds a vector of its own group, (Q,) and (G,) int64.
    """
    k = min(k, len(gallery))
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for begin in range(0, len(queries), QUERIES):
        rows = queries[begin : begin + QUERIES]
        top = TopK(rows, k)
        lowest = rows.new_full((len(rows),), torch.inf)
        for left in range(0, len(gallery), FLOAT32_TILE):
            tile = rows @ gallery[left : left + FLOAT32_TILE].T  # (b, T)
            lowest = torch.minimum(lowest, tile.amin(1))
            if query_groups is not None and gallery_groups is not None:
                own = query_groups[begin : begin + QUERIES, None]
                tile.masked_fill_(own == gallery_groups[left : left + FLOAT32_TILE], -torch.inf)
            top.add(tile, left)
        none = top.values == -torch.inf
        found.append((top.values, top.images.masked_fill(none, -1), lowest))
    if not found:
        empty = queries.new_empty(0, k)
        return Matches(empty, empty.long(), queries.new_empty(0))
    return Matches(*(torch.cat(parts) for parts in zip(*found, strict=True)))


@dataclass(frozen=True)
class ExactTiles:
    """Exact similarities of queries to all images of a set, tile by tile.

    Attributes:
        vectors: (N, D) int32, unit vectors in steps of 2^-26.
        labels: (N,) integers; (N, L) where images may have several, -1 behind the last.
        hidden: (N,) bool, images that are not searched; None where all are.
        sequences: (N,) int64, images of one number never find each other, -1 finds all; or None.
    """

    vectors: Tensor
    labels: Tensor
    hidden: Tensor | None
    sequences: Tensor | None

    @classmethod
    def of(
        cls, embeddings: Tensor, labels: Tensor, roles: Roles | None, device: torch.device
    ) -> ExactTiles:
        """(N, D) embeddings, finite, with their (N,) labels; float64 must exist on the device."""
        unit = unit_integers(embeddings, torch.arange(len(embeddings)), device)
        hidden = sequences = None
        if roles is not None:
            hidden = ~roles.gallery.to(device)
            sequences = roles.sequence.to(device)
        return cls(unit, labels.to(device), hidden, sequences)

    def tiles(self, rows: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """All images, a tile of T at a time, for the queries `rows`, (b,).

        Each tile comes as its first image, its similarities, (b, T) float64 in steps of 2^-52,
        -inf where an image may not be found, and whether they are of the query's class, (b, T).
        """
        query = self.vectors[rows].double()  # (b, D)
        for left in range(0, len(self.labels), TILE):
            tile = slice(left, left + TILE)
            found = query @ self.vectors[tile].double().T  # (b, T)
            if self.hidden is not None:
                found.masked_fill_(self.hidden[tile], -torch.inf)
            if self.sequences is not None:
                own = self.sequences[rows, None]
                found.masked_fill_((self.sequences[tile] == own) & (own >= 0), -torch.inf)
            inside = ((rows >= left) & (rows < left + found.shape[1])).nonzero()[:, 0]
            found[inside, rows[inside] - left] = -torch.inf
            yield left, found, share_class(self.labels[rows], self.labels[tile])

    def batches(self, queries: Tensor) -> Iterator[Tensor]:
        """(Q,) rows in parts that `tiles` takes at a time."""
        yield from queries.to(self.labels.device).split(QUERIES)


@dataclass(frozen=True)
class NearestImages:
    """The most similar images of Q queries; row -1 and a cosine of -inf where there is none."""

    rows: Tensor  # (Q,) int64, the most similar image
    cosines: Tensor  # (Q,) float64
    wrong_rows: Tensor  # (Q,) int64, the most similar image of another class
    wrong_cosines: Tensor  # (Q,) float64


@torch.no_grad()
def nearest_images(
    embeddings: Tensor,
    labels: Tensor,
    queries: Tensor,
    *,
    roles: Roles | None = None,
    world: World,
    device: torch.device,
) -> NearestImages:
    """The most similar image that each query, (Q,) rows, may find; of equal cosines the first row.

    The (N, D) embeddings are finite, and on all workers the same, as are the results.
    """
    device = torch.device("cpu") if device.type == "mps" else device  # it has no float64
    exact = ExactTiles.of(embeddings, labels, roles, device)
    share = world.shard(len(queries))
    parts = [torch.empty(0, 4, dtype=torch.float64, device=device)]
    for rows in exact.batches(queries[share.start : share.stop]):
        first, wrong = (TopK(exact.vectors[rows].double(), 1) for _ in range(2))
        for left, found, same in exact.tiles(rows):
            first.add(found, left)
            wrong.add(found.masked_fill_(same, -torch.inf), left)
        parts.append(torch.cat([_columns(first), _columns(wrong)], 1))
    table = torch.cat(world.gather(torch.cat(parts).to(world.device))).cpu()
    return NearestImages(table[:, 0].long(), table[:, 1], table[:, 2].long(), table[:, 3])


def _columns(top: TopK) -> Tensor:
    """Rows and cosines, (b, 2) float64; -1 and -inf where there is none."""
    none = top.values == -torch.inf
    return torch.cat([top.images.double().masked_fill(none, -1), top.values / UNIT], 1)
