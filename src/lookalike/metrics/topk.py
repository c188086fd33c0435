"""The highest of many similarities, of which only a tile is there at a time."""

from __future__ import annotations

import torch
from torch import Tensor


class Best:
    """The highest similarities of each query so far, and whose they are.

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
        """Look at a tile, (b, T), of the images from `left` on, which are behind all before."""
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
    # Which of equal ones topk takes is its own choice. One more than wanted tells where it had any.
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
