"""Looking through tiles of similarities for the few that matter.

Tiles are (b, T), one row a query. One that serves as the columns of another comes as its transpose;
passes follow the memory, as they would take ten times as long across it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_GROUP = 16  # columns whose maximum is looked at first
_SPARSE = 8  # groups of which at most one has something: fewer, and they are looked at alone
_NUMBERS = 2**19  # similarities that are looked at one by one at a time


Reaching = tuple[Tensor, Tensor, Tensor]
"""Rows, columns and values, (n,) each."""


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
        """Whether `columns` are negatives of `rows`: places whose shapes broadcast."""
        negative = self.classes[rows] != self.classes[columns]
        if self.sequences is not None:
            own = self.sequences[rows]
            negative &= (own != self.sequences[columns]) | (own < 0)
        return negative

    def hide(self, tile: Tensor, rows: Tensor, columns: Tensor) -> None:
        """Make -inf of what is no negative in a tile of these rows, (b,), and columns, (T,)."""
        if _is_turned(tile):
            return self.hide(tile.T, columns, rows)  # neither is a negative of the other
        for part in parts(tile):
            tile[part].masked_fill_(~self.oppose(rows[part, None], columns[None]), -torch.inf)


def parts(tile: Tensor) -> Iterator[slice]:
    """Rows that can be looked at one by one at a time."""
    step = max(1, _NUMBERS // max(1, tile.shape[1]))
    for begin in range(0, len(tile), step):
        yield slice(begin, min(begin + step, len(tile)))


def few_reaching(tile: Tensor, floor: Tensor) -> Reaching | None:
    """Where a tile is at least `floor`, (b,), if it is so in few places; None if in many.

    The maxima of groups of columns are one cheap pass, and few of them are looked into. A fused
    kernel for a GPU would take the place of this function and of the product before it.
    """
    if tile.shape[1] % _GROUP:
        return None
    stride = tile.shape[1] // _GROUP
    if _is_turned(tile):
        best = tile.T.unflatten(0, (_GROUP, stride)).amax(0)  # (T/16, b)
        group, row = (best >= floor).nonzero(as_tuple=True)
    else:
        best = tile.unflatten(1, (_GROUP, stride)).amax(1)  # (b, T/16)
        row, group = (best >= floor[:, None]).nonzero(as_tuple=True)
    if len(row) * _SPARSE > best.numel():
        return None
    column = group[:, None] + stride * torch.arange(_GROUP, device=tile.device)  # (n, 16)
    value = tile[row[:, None], column]
    which, member = (value >= floor[row, None]).nonzero(as_tuple=True)
    return row[which], column[which, member], value[which, member]


def share_reaching(tile: Tensor, floor: Tensor) -> float:
    """About which share of a tile is at least `floor`, (b,), from some of its columns."""
    some = tile[:, ::_GROUP] >= floor[:, None]
    return float(some.sum()) / some.numel()


def reaching(tile: Tensor, floor: Tensor) -> Iterator[Reaching]:
    """Where a tile is at least `floor`, (b,), in parts."""
    if _is_turned(tile):
        for part in parts(tile.T):
            column, row = (floor <= tile.T[part]).nonzero(as_tuple=True)
            column += part.start
            yield row, column, tile[row, column]
    else:
        for part in parts(tile):
            row, column = (tile[part] >= floor[part, None]).nonzero(as_tuple=True)
            row += part.start
            yield row, column, tile[row, column]


def _is_turned(tile: Tensor) -> bool:
    return tile.stride(0) < tile.stride(1)
