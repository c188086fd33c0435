"""A block of queries that counts, tile by tile, what comes before each image it should find."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lookalike.retrieval.precision import Margin
from lookalike.retrieval.vectors import Vectors

_GROUP = 16  # columns whose maximum is looked at first
_PENDING = 2**17  # undecided pairs that a block may put off
_DENSE = 2**19  # similarities that are looked at one by one at a time


@dataclass(frozen=True)
class Kinds:
    """What an image is: two of the same class or sequence are no negatives of each other.

    Attributes:
        classes: (N,) int64.
        sequences: (N,) int64, -1 outside of any; None where there are none.
    """

    classes: Tensor
    sequences: Tensor | None

    def oppose(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Whether `columns`, (n,) places, are negatives of `rows`, (n,) places."""
        negative = self.classes[rows] != self.classes[columns]
        if self.sequences is not None:
            own = self.sequences[rows]
            negative &= (own != self.sequences[columns]) | (own < 0)
        return negative


@dataclass(frozen=True)
class Found:
    """What a tile brought a block: places in `Block._gained`, and undecided pairs."""

    gains: list[Tensor]
    undecided: list[Tensor]  # (3, n) int64: query of the block, place of the image, first limit


class Block:
    """Queries, the similarities of what they should find, and counts.

    A negative comes before the i-th positive of a query if its similarity is at least the i-th
    `least`, and then before all behind it. So one number a negative is enough: the first positive
    that it comes before. A positive is *alive* while its rank can be within `depth`; only
    negatives that come before one that is alive are looked at. Counts of those that are not are
    too low, but never so low that their rank would be within `depth`.

    Args:
        rows: (b,) int64, the places of the queries.
        relevant: (b,) int64, R, how many images each should find; 0 for images that do not ask.
        depth: (b,) int64: ranks up to this must be exact.
        least: (b, W) float64, descending: what a negative needs to come before the i-th positive;
            -inf behind R.
    """

    def __init__(self, rows: Tensor, relevant: Tensor, depth: Tensor, least: Tensor) -> None:
        self.rows = rows
        self.relevant = relevant
        self._depth = depth
        self._width = least.shape[1]
        # A binary search is simple in 2^n - 1 numbers.
        self._least = torch.nn.functional.pad(
            least, (0, 2 ** self._width.bit_length() - 1 - self._width), value=-torch.inf
        )
        self._gained = torch.zeros(least.shape, dtype=torch.int64, device=least.device)
        self._number = torch.arange(1, self._width + 1, device=least.device)  # (W,)
        self._alive = relevant.clone()  # (b,)
        self._undecided: list[Tensor] = []
        self._tiles = 0
        self._level = self._rest = self._hold = 0

    @property
    def finished(self) -> bool:
        """Whether no further image can change anything."""
        return not bool((self._alive > 0).any())

    @property
    def level(self) -> int:
        """Which level to try first for the next tile.

        Failing costs a tile. So a level that failed is left alone for a while, each time longer.
        """
        return self._level if self._rest > 0 else 0

    def climb(self, level: int) -> None:
        """Remember that `level` left too much undecided."""
        self._level, self._rest, self._hold = level + 1, self._hold, 2 * self._hold + 1

    def look(self, tile: Tensor, margin: Margin, columns: Tensor, kinds: Kinds) -> Found:
        """What a tile of similarities, (b, T), to the images at the places `columns` brings."""
        found = Found([], [])
        last = self._least.gather(1, (self._alive - 1).clamp_min_(0)[:, None])[:, 0]
        least = torch.where(self._alive > 0, last, torch.inf)
        for row, column, fast in _reaching(tile, margin.floor(least)):
            place = columns[column]
            similarity = fast.double()
            if margin.level.exact:
                first = self._first(row, similarity)
                sure = torch.ones_like(row, dtype=torch.bool)
            else:
                around = margin.around(similarity)
                first = self._first(row, similarity + around)  # if it is as high as it can be ...
                sure = self._before(row, first, similarity - around)  # ... and as low
            counts = kinds.oppose(self.rows[row], place) & (first < self._alive[row])
            found.gains.append((row * self._width + first)[counts & sure])
            if not margin.level.exact:
                rest = (counts & ~sure).nonzero()[:, 0]
                found.undecided.append(torch.stack([row[rest], place[rest], first[rest]]))
        return found

    def keep(self, found: Found, vectors: Vectors) -> None:
        """Count what a tile brought, and let positives die whose rank has become too low."""
        self._tiles += 1
        self._rest = max(0, self._rest - 1)
        self._gain(found.gains)
        self._undecided += [part for part in found.undecided if part.shape[1]]
        if sum(part.shape[1] for part in self._undecided) > _PENDING:
            self.settle(vectors)
        # Sums over rows that are longer than a tile is wide are not worth it after every tile.
        elif 8 * len(self._number) < len(self.rows) or self._tiles.bit_count() == 1:
            self._bury()

    def settle(self, vectors: Vectors) -> None:
        """Decide the undecided pairs by their exact similarities."""
        self._bury()
        if self._undecided:
            row, place, first = torch.cat(self._undecided, 1)
            matters = first < self._alive[row]
            row, place = row[matters], place[matters]
            first = self._first(row, vectors.similarities(self.rows[row], place))
            reached = first < self._alive[row]
            self._gain([(row * self._width + first)[reached]])
            self._undecided = []
            self._bury()

    @property
    def counts(self) -> Tensor:
        """(b, W) int64: negatives by the first positive that they come before; to be summed."""
        return self._gained

    def ranks(self) -> Tensor:
        """The ranks of the positives, (b, W) int64, from 1, as far as they matter."""
        return self._gained.cumsum(1).add_(self._number)

    def _gain(self, gains: list[Tensor]) -> None:
        index = torch.cat(gains) if gains else torch.empty(0, dtype=torch.int64)
        if len(index):
            self._gained.view(-1).index_add_(0, index, torch.ones_like(index))

    def _bury(self) -> None:
        within = (self.ranks() <= self._depth[:, None]) & (self._number <= self.relevant[:, None])
        self._alive = within.sum(1)

    def _first(self, row: Tensor, similarity: Tensor) -> Tensor:
        """The first positive that a negative comes before, from 0; at least R if none.

        A binary search in the row of `_least`, for (n,) rows and similarities at once.
        """
        flat = self._least.view(-1)
        begin = row * self._least.shape[1]
        place = begin - 1  # up to here, every positive comes before the negative
        step = (self._least.shape[1] + 1) // 2
        while step:
            ahead = place + step
            place = torch.where(flat[ahead] > similarity, ahead, place)
            step //= 2
        return place.sub_(begin).add_(1)

    def _before(self, row: Tensor, first: Tensor, similarity: Tensor) -> Tensor:
        """Whether the negatives come before the positives `first`, (n,), at these similarities."""
        inside = first.clamp_max(self._width - 1)
        return self._least[row, inside] <= similarity


def _reaching(tile: Tensor, floor: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Where a tile, (b, T), is at least `floor`, (b,): rows, columns and values, in parts.

    Looked at are the maxima of groups of columns first, which is one cheap pass; most have none.
    A fused kernel for a GPU would take the place of this function and of the product before it.
    """
    count, width = tile.shape
    turned = tile.stride(0) < tile.stride(1)  # passes follow the memory, or they take ten times
    if width % _GROUP == 0:
        stride = width // _GROUP
        if turned:
            best = tile.T.unflatten(0, (_GROUP, stride)).amax(0)  # (T/16, b)
            group, row = (best >= floor).nonzero(as_tuple=True)
        else:
            best = tile.unflatten(1, (_GROUP, stride)).amax(1)  # (b, T/16)
            row, group = (best >= floor[:, None]).nonzero(as_tuple=True)
        if 8 * _GROUP * len(row) <= tile.numel():
            column = group[:, None] + stride * torch.arange(_GROUP, device=tile.device)  # (n, 16)
            value = tile[row[:, None], column]
            which, member = (value >= floor[row, None]).nonzero(as_tuple=True)
            yield row[which], column[which, member], value[which, member]
            return
    step = max(1, _DENSE // max(1, width if not turned else count))
    for begin in range(0, width if turned else count, step):
        if turned:
            part = tile[:, begin : begin + step]
            column, row = (floor <= part.T).nonzero(as_tuple=True)
            yield row, column + begin, part[row, column]
        else:
            part = tile[begin : begin + step]
            row, column = (part >= floor[begin : begin + step, None]).nonzero(as_tuple=True)
            yield row + begin, column, part[row, column]
