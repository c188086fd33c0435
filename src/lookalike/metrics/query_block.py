"""A block of queries that counts, tile by tile, what comes before each image it should find."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lookalike.metrics import tile_scan
from lookalike.metrics.rounding_bounds import Margin
from lookalike.metrics.tile_scan import Kinds
from lookalike.metrics.vector_blocks import Vectors

_PENDING = 2**17  # undecided pairs that a block may put off
_SHALLOW = 8  # a tile this many times wider than `depth` is cut down to its highest similarities
_CUT = 1 / 32  # if it has more than this share to look at, as cutting costs what these cost
_ALL = 1 / 4  # from this share on, looking at all similarities of a tile is cheaper than listing


@dataclass(frozen=True)
class Found:
    """What a tile brought a block.

    Attributes:
        gains: numbers of `Block.counts`, each as often as it grows by one.
        counted: the same as a matrix, (b, W).
        undecided: (3, n) int64: query of the block, place of the image, first positive that it may
            come before.
        hopeless: the level is not worth going on with.
    """

    gains: list[Tensor] = field(default_factory=list)
    counted: list[Tensor] = field(default_factory=list)
    undecided: list[Tensor] = field(default_factory=list)
    hopeless: bool = False

    @property
    def open(self) -> int:
        """How many pairs it left undecided."""
        return sum(part.shape[1] for part in self.undecided)


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
        """What a tile of similarities, (b, T), to the images at the places `columns` brings.

        In the tile, what is no negative may become -inf.
        """
        floor = margin.floor(self._lowest())
        few = tile_scan.few_reaching(tile, floor)
        if few is None:
            share = tile_scan.share_reaching(tile, floor)
            if share > _CUT and int(self._depth.max()) * _SHALLOW <= tile.shape[1]:
                kinds.hide(tile, self.rows, columns)
                self._cut(tile, margin)
                floor = margin.floor(self._lowest())
                few = tile_scan.few_reaching(tile, floor)
                share = tile_scan.share_reaching(tile, floor)
            if share > _ALL:
                return self._look_at_all(tile, margin, columns, kinds)
        found = Found()
        for row, column, fast in tile_scan.reaching(tile, floor) if few is None else [few]:
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

    def _look_at_all(self, tile: Tensor, margin: Margin, columns: Tensor, kinds: Kinds) -> Found:
        """The same without a list of what is looked at."""
        # The margin of a bf16 result differs from pair to pair, and would settle little. Elsewhere
        # similarities have a density of some 5, so that many come close to one of many positives.
        near = 10 * margin.width * self._width
        if margin.level.result == torch.bfloat16 or near > margin.level.bearable:
            return Found(hopeless=True)
        found = Found()
        kinds.hide(tile, self.rows, columns)
        for part in tile_scan.parts(tile):
            similarity = tile[part].contiguous().double()  # (p, T)
            least = -self._least[part]  # ascending, as searchsorted wants it
            first = torch.searchsorted(least, -(similarity + margin.width))  # (p, T)
            alive = self._alive[part, None]
            if not margin.level.exact:
                sure = torch.searchsorted(least, -(similarity - margin.width)) == first
                row, column = (~sure & (first < alive)).nonzero(as_tuple=True)
                found.undecided.append(
                    torch.stack([row + part.start, columns[column], first[row, column]])
                )
                first = torch.where(sure, first, self._width)
            first = torch.where(first < alive, first, self._width)  # (p, T)
            row = torch.arange(len(first), device=first.device)[:, None] * (self._width + 1)
            number = torch.bincount(
                (first + row).view(-1), minlength=len(first) * (self._width + 1)
            )
            found.counted.append(number.view(len(first), -1)[:, :-1])
            if found.open > margin.level.bearable * tile.numel():
                break  # it will be refused
        return found

    def _lowest(self) -> Tensor:
        """What a negative needs to come before any positive alive, (b,)."""
        last = self._least.gather(1, (self._alive - 1).clamp_min_(0)[:, None])[:, 0]
        return torch.where(self._alive > 0, last, torch.inf)

    def _cut(self, tile: Tensor, margin: Margin) -> None:
        """Let positives die that have `depth` negatives of this tile before them.

        They are counted as that many, beside those that are counted one by one: the rank of what
        is dead only has to be too low, and those alive are not touched.
        """
        highest = tile.topk(int(self._depth.max()), dim=1).values.double()  # (b, depth)
        last = highest.gather(1, self._depth[:, None] - 1)[:, 0]  # (b,)
        low = torch.where(last.isfinite(), last - margin.around(last), -torch.inf)
        first = self._first(torch.arange(len(last), device=last.device), low)
        dying = (first < self._alive).nonzero()[:, 0]
        self._gained[dying, first[dying]] += self._depth[dying]
        self._alive[dying] = first[dying]

    def keep(self, found: Found, vectors: Vectors) -> None:
        """Count what a tile brought, and let positives die whose rank has become too low."""
        self._tiles += 1
        self._rest = max(0, self._rest - 1)
        self._gain(found.gains)
        if found.counted:
            self._gained += torch.cat(found.counted)
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
