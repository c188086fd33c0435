"""A block of queries that counts, tile by tile, the negatives before each image to be found.

Tiles are (b, T), one row a query. One that serves as the columns of another comes as its transpose;
passes follow the memory, as they would take ten times as long across it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lookalike.losses.shared_classes import have_common
from lookalike.metrics.fast_similarity import ErrorBound, UnitVectors

UNDECIDED = 2**17
"""Undecided pairs that a block may put off."""

TILE_PART = 2**19
"""Similarities that are examined one by one at a time."""

_SHALLOW = 8  # a tile this many times wider than `depth` is first reduced to its top `depth`
_DENSE = 1 / 32  # if more than this share of it reaches a positive, as the reduction costs as much
_ALL = 1 / 4  # from this share on, examining all similarities of a tile is cheaper than listing
_GROUP = 16  # columns whose maximum is examined first
_SPARSE = 8  # groups of which at most one may reach a positive for the list of groups to be short

Reaching = tuple[Tensor, Tensor, Tensor]
"""Rows, columns and values, (n,) each."""


@dataclass(frozen=True)
class NegativeMask:
    """Two images with a class in common, or of one sequence, are no negatives of each other."""

    classes: Tensor  # (N,) int64; (N, L) where images may have several, -1 behind the last
    sequences: Tensor | None  # (N,) int64, -1 outside of any; None where there are none

    def of(self, rows: Tensor, columns: Tensor) -> Tensor:
        """True where `columns` are negatives of `rows`: places whose shapes broadcast."""
        if self.classes.ndim == 1:
            negative = self.classes[rows] != self.classes[columns]
        else:
            negative = ~have_common(self.classes[rows], self.classes[columns])
        if self.sequences is not None:
            own = self.sequences[rows]
            negative &= (own != self.sequences[columns]) | (own < 0)
        return negative

    def hide(self, tile: Tensor, rows: Tensor, columns: Tensor) -> None:
        """Set to -inf what is no negative in a tile of these rows, (b,), and columns, (T,)."""
        if _is_transposed(tile):
            return self.hide(tile.T, columns, rows)  # neither is a negative of the other
        for part in _parts(tile):
            tile[part].masked_fill_(~self.of(rows[part, None], columns[None]), -torch.inf)


class QueryBlock:
    """Queries, the similarities of their positives, and counts of the negatives before these.

    A negative comes before the i-th positive of a query if its similarity is at least the i-th
    `least`, and then before all behind it. So one number a negative is enough: the first positive
    that it comes before. A positive is *open* while its rank can be within `depth`; only negatives
    that come before an open one are examined. Counts of the others are too low, but never so low
    that their rank would be within `depth`.

    Args:
        rows: (b,) int64, the places of the queries.
        relevant: (b,) int64, R, how many images each should find; 0 for images that do not query.
        depth: (b,) int64: ranks up to this must be exact.
        least: (b, W) float64, descending: the similarity from which a negative comes before the
            i-th positive; -inf behind R.
    """

    def __init__(
        self,
        rows: Tensor,
        relevant: Tensor,
        depth: Tensor,
        least: Tensor,
        vectors: UnitVectors,
        negatives: NegativeMask,
    ) -> None:
        self.rows = rows
        self.relevant = relevant
        self.counts = torch.zeros(least.shape, dtype=torch.int64, device=least.device)
        """(b, W): negatives by the first positive that they come before; to be summed."""
        self._depth = depth
        self._width = least.shape[1]
        # A binary search is simple in 2^n - 1 numbers.
        self._least = torch.nn.functional.pad(
            least, (0, 2 ** self._width.bit_length() - 1 - self._width), value=-torch.inf
        )
        self._vectors = vectors
        self._negatives = negatives
        self._number = torch.arange(1, self._width + 1, device=least.device)  # (W,)
        self._open = relevant.clone()  # (b,): the first so many positives are open
        self._undecided: list[Tensor] = []  # (3, n) int64: query, place, first positive before
        self._tiles = 0
        self._precision = self._rest = self._hold = 0

    @property
    def finished(self) -> bool:
        """True if no further image can change anything."""
        return not bool((self._open > 0).any())

    @property
    def precision(self) -> int:
        """The number of the precision to try first for the next tile.

        A failure costs a tile, so one that failed is skipped for a while, each time longer.
        """
        return self._precision if self._rest > 0 else 0

    def refuse(self, precision: int) -> None:
        """Remember that a precision left too much undecided."""
        self._precision, self._rest, self._hold = precision + 1, self._hold, 2 * self._hold + 1

    def add(self, tile: Tensor, bound: ErrorBound, columns: Tensor) -> bool:
        """Count the negatives in a tile of similarities, (b, T), to the images at `columns`.

        False where it leaves too many pairs undecided: then no open positive is counted. In the
        tile, what is no negative may become -inf.
        """
        floor = bound.floor(self._lowest())
        few = _few_reaching(tile, floor)
        if few is None:
            share = _share_reaching(tile, floor)
            if share > _DENSE and int(self._depth.max()) * _SHALLOW <= tile.shape[1]:
                self._negatives.hide(tile, self.rows, columns)
                self._close_by_top_k(tile, bound)
                floor = bound.floor(self._lowest())
                few = _few_reaching(tile, floor)
                share = _share_reaching(tile, floor)
            if share > _ALL:
                return self._add_all(tile, bound, columns)
        gains, undecided = [], []
        for row, column, fast in _reaching(tile, floor) if few is None else [few]:
            place = columns[column]
            similarity = fast.double()
            around = bound.around(similarity)
            first = self._first(row, similarity + around)  # if it is as high as it can be ...
            counts = self._negatives.of(self.rows[row], place) & (first < self._open[row])
            if not bound.precision.exact:
                inside = first.clamp_max(self._width - 1)
                sure = self._least[row, inside] <= similarity - around  # ... and as low
                rest = (counts & ~sure).nonzero()[:, 0]
                undecided.append(torch.stack([row[rest], place[rest], first[rest]]))
                counts &= sure
            gains.append((row * self._width + first)[counts])
        if _too_many(undecided, tile, bound):
            return False
        self._gain(gains)
        self._put_off(undecided)
        return True

    def _add_all(self, tile: Tensor, bound: ErrorBound, columns: Tensor) -> bool:
        """The same without a list of what reaches a positive."""
        # The bound of a bf16 result differs from pair to pair, and would settle little. Elsewhere
        # similarities have a density of some 5, so that many come close to one of many positives.
        near = 10 * bound.width * self._width
        if bound.precision.result == torch.bfloat16 or near > bound.precision.most_undecided:
            return False
        counts, undecided = [], []
        self._negatives.hide(tile, self.rows, columns)
        for part in _parts(tile):
            similarity = tile[part].contiguous().double()  # (p, T)
            least = -self._least[part]  # ascending, as searchsorted needs it
            first = torch.searchsorted(least, -(similarity + bound.width))  # (p, T)
            still = self._open[part, None]
            if not bound.precision.exact:
                sure = torch.searchsorted(least, -(similarity - bound.width)) == first
                row, column = (~sure & (first < still)).nonzero(as_tuple=True)
                undecided.append(
                    torch.stack([row + part.start, columns[column], first[row, column]])
                )
                if _too_many(undecided, tile, bound):
                    return False
                first = torch.where(sure, first, self._width)
            first = torch.where(first < still, first, self._width)  # (p, T)
            row = torch.arange(len(first), device=first.device)[:, None] * (self._width + 1)
            number = torch.bincount(
                (first + row).view(-1), minlength=len(first) * (self._width + 1)
            )
            counts.append(number.view(len(first), -1)[:, :-1])
        self.counts += torch.cat(counts)
        self._put_off(undecided)
        return True

    def _put_off(self, undecided: list[Tensor]) -> None:
        """Keep undecided pairs for later, and close positives whose rank has become too low."""
        self._tiles += 1
        self._rest = max(0, self._rest - 1)
        self._undecided += [part for part in undecided if part.shape[1]]
        if sum(part.shape[1] for part in self._undecided) > UNDECIDED:
            self.settle()
        # Sums over rows that are longer than a tile is wide are not worth it after every tile.
        elif 8 * self._width < len(self.rows) or self._tiles.bit_count() == 1:
            self._close()

    def settle(self) -> None:
        """Decide the undecided pairs by their exact similarities."""
        self._close()
        if self._undecided:
            row, place, first = torch.cat(self._undecided, 1)
            matters = first < self._open[row]
            row, place = row[matters], place[matters]
            first = self._first(row, self._vectors.similarities(self.rows[row], place))
            reached = first < self._open[row]
            self._gain([(row * self._width + first)[reached]])
            self._undecided = []
            self._close()

    def ranks(self) -> Tensor:
        """The ranks of the positives, (b, W) int64, from 1, exact up to `depth`."""
        return self.counts.cumsum(1).add_(self._number)

    def _lowest(self) -> Tensor:
        """The similarity from which a negative comes before any open positive, (b,)."""
        last = self._least.gather(1, (self._open - 1).clamp_min_(0)[:, None])[:, 0]
        return torch.where(self._open > 0, last, torch.inf)

    def _close_by_top_k(self, tile: Tensor, bound: ErrorBound) -> None:
        """Close positives that have `depth` negatives of this tile before them.

        They are counted as that many, beside those that are counted one by one: the rank of a
        closed one only has to be too low, and open ones are not touched.
        """
        highest = tile.topk(int(self._depth.max()), dim=1).values.double()  # (b, depth)
        last = highest.gather(1, self._depth[:, None] - 1)[:, 0]  # (b,)
        low = torch.where(last.isfinite(), last - bound.around(last), -torch.inf)
        first = self._first(torch.arange(len(last), device=last.device), low)
        closed = (first < self._open).nonzero()[:, 0]
        self.counts[closed, first[closed]] += self._depth[closed]
        self._open[closed] = first[closed]

    def _close(self) -> None:
        within = (self.ranks() <= self._depth[:, None]) & (self._number <= self.relevant[:, None])
        self._open = within.sum(1)

    def _gain(self, gains: list[Tensor]) -> None:
        """Add 1 to `counts`, flattened, at each of these indices."""
        index = torch.cat(gains) if gains else torch.empty(0, dtype=torch.int64)
        if len(index):
            self.counts.view(-1).index_add_(0, index, torch.ones_like(index))

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


def _too_many(undecided: list[Tensor], tile: Tensor, bound: ErrorBound) -> bool:
    pairs = sum(part.shape[1] for part in undecided)
    return pairs > bound.precision.most_undecided * tile.numel()


def _few_reaching(tile: Tensor, floor: Tensor) -> Reaching | None:
    """Elements of a tile that are at least `floor`, (b,), if they are few; None if many.

    The maxima of groups of columns are one cheap pass, and only a few groups are examined. A fused
    kernel for a GPU would take the place of this function and of the product before it.
    """
    if tile.shape[1] % _GROUP:
        return None
    stride = tile.shape[1] // _GROUP
    if _is_transposed(tile):
        highest = tile.T.unflatten(0, (_GROUP, stride)).amax(0)  # (T/16, b)
        group, row = (highest >= floor).nonzero(as_tuple=True)
    else:
        highest = tile.unflatten(1, (_GROUP, stride)).amax(1)  # (b, T/16)
        row, group = (highest >= floor[:, None]).nonzero(as_tuple=True)
    if len(row) * _SPARSE > highest.numel():
        return None
    column = group[:, None] + stride * torch.arange(_GROUP, device=tile.device)  # (n, 16)
    value = tile[row[:, None], column]
    which, member = (value >= floor[row, None]).nonzero(as_tuple=True)
    return row[which], column[which, member], value[which, member]


def _share_reaching(tile: Tensor, floor: Tensor) -> float:
    """The share of a tile that is at least `floor`, (b,), estimated from some of its columns."""
    some = tile[:, ::_GROUP] >= floor[:, None]
    return float(some.sum()) / some.numel()


def _reaching(tile: Tensor, floor: Tensor) -> Iterator[Reaching]:
    """Elements of a tile that are at least `floor`, (b,), in parts."""
    if _is_transposed(tile):
        for part in _parts(tile.T):
            column, row = (floor <= tile.T[part]).nonzero(as_tuple=True)
            column += part.start
            yield row, column, tile[row, column]
    else:
        for part in _parts(tile):
            row, column = (tile[part] >= floor[part, None]).nonzero(as_tuple=True)
            row += part.start
            yield row, column, tile[row, column]


def _parts(tile: Tensor) -> Iterator[slice]:
    """Rows that are examined at a time."""
    step = max(1, TILE_PART // max(1, tile.shape[1]))
    for begin in range(0, len(tile), step):
        yield slice(begin, min(begin + step, len(tile)))


def _is_transposed(tile: Tensor) -> bool:
    return tile.stride(0) < tile.stride(1)
