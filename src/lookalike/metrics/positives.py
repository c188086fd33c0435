"""The similarities of what queries should find: exact, and cheap, as classes lie together."""

from __future__ import annotations

import torch
from torch import Tensor

from lookalike.metrics.sorted_set import SortedSet
from lookalike.metrics.vector_blocks import Vectors, span

_ROWS = 128  # queries at a time at most: their classes make a narrow band
_NUMBERS = 4 * 2**20  # similarities to their classes at a time
_COLUMNS = 4096  # images at a time of a class that is larger


def positives(images: SortedSet, vectors: Vectors, rows: Tensor, *, out: Tensor) -> None:
    """Write the exact similarities of all that the queries `rows` should find.

    Args:
        images: the set.
        vectors: of its images.
        rows: (b,) int64 places, ascending.
        out: (b, W) float64, W the largest R of them: descending, and -inf behind R.
    """
    sizes = images.sizes[rows].tolist()
    begin = 0
    while begin < len(rows):
        # Sizes grow along the order: the last query of the longest possible part decides.
        end = min(begin + _ROWS, len(rows))
        end = begin + max(1, min(end - begin, _NUMBERS // sizes[end - 1]))
        out[begin:end] = _of(images, vectors, rows[begin:end], out.shape[1])
        begin = end


def _of(images: SortedSet, vectors: Vectors, rows: Tensor, width: int) -> Tensor:
    """The similarities of the positives of `rows`, (n,): (n, width), descending, padded."""
    begins, sizes = images.begins[rows, None], images.sizes[rows, None]  # (n, 1)
    query = vectors.exact(rows)  # (n, D)
    found = query.new_full((len(rows), max(width, int(sizes[-1]))), -torch.inf)
    for column in _of_their_classes(images, rows).split(_COLUMNS):  # (t,)
        band = query @ vectors.exact(span(column)).T  # (n, t)
        place = column - begins  # (n, t), in the class
        mine = (place >= 0) & (place < sizes) & (column != rows[:, None])
        if images.hidden is not None:
            mine &= ~images.hidden[column]
        if images.kinds.sequences is not None:
            own = images.kinds.sequences[rows, None]  # (n, 1)
            mine &= (images.kinds.sequences[column] != own) | (own < 0)
        row, number = mine.nonzero(as_tuple=True)
        found[row, place[row, number]] = band[row, number]
    return found.sort(1, descending=True).values[:, :width]


def _of_their_classes(images: SortedSet, rows: Tensor) -> Tensor:
    """The places of all images of the classes of `rows`, (t,) int64, ascending, each once."""
    begins = images.begins[rows].unique_consecutive()
    sizes = images.sizes[begins]
    ends = sizes.cumsum(0)
    within = torch.arange(int(ends[-1]), device=rows.device)
    return within + (begins - ends + sizes).repeat_interleave(sizes)
