"""The vectors of a set, exact and rounded, kept where memory allows and made again where not."""

from __future__ import annotations

import torch
from torch import Tensor

from lookalike.metrics.exact_similarity import STEPS, unit_integers
from lookalike.metrics.rounding_bounds import Level

_KEPT = 640 * 2**20  # bytes of vectors that are kept beside the embeddings
_ROWS = 2048  # rows that are made at a time


class Vectors:
    """Unit vectors of a set of N images, in an order of their own.

    Exact ones are multiples of 2^-26 in float64 (`exact_similarity`); rounded ones
    are these in fewer bits. Kept are first the bf16 vectors, if bf16 is used, then the fixed-point
    ones, each only if they fit in what may be kept; otherwise they are made from the embeddings
    whenever they are asked for.

    Args:
        embeddings: (N, D), finite.
        order: (N,) int64: place to row of `embeddings`.
        device: where to compute.
        fastest: the level of most products.
    """

    def __init__(
        self, embeddings: Tensor, order: Tensor, device: torch.device, fastest: Level
    ) -> None:
        self._embeddings = embeddings
        self._order = order
        self.device = device
        self.count, self.dim = embeddings.shape
        self._integers: Tensor | None = None
        self._bf16: Tensor | None = None
        self._lost: Tensor | None = None
        numbers = self.count * self.dim
        left = _KEPT
        if fastest.dtype == torch.bfloat16 and 2 * numbers <= left:
            left -= 2 * numbers
            self._bf16 = torch.empty(embeddings.shape, dtype=torch.bfloat16, device=device)
            self._lost = torch.empty(self.count, dtype=torch.float64, device=device)
        if 4 * numbers <= left:
            self._integers = torch.empty(embeddings.shape, dtype=torch.int32, device=device)
        if left < _KEPT or self._integers is not None:
            for begin in range(0, self.count, _ROWS):
                self._keep(slice(begin, begin + _ROWS))

    def _keep(self, part: slice) -> None:
        whole = unit_integers(self._embeddings, self._order[part], self.device)
        if self._integers is not None:
            self._integers[part] = whole
        if self._bf16 is not None and self._lost is not None:
            self._bf16[part], self._lost[part] = _in_bf16(whole.double().div_(STEPS))

    @property
    def keeps_fast(self) -> bool:
        """Whether the vectors of the fastest level need not be made again and again."""
        return self._bf16 is not None or self._integers is not None

    def exact(self, places: slice | Tensor) -> Tensor:
        """Exact unit vectors, (n, D) float64, of a slice or of (n,) int64 places on the device."""
        if self._integers is not None:
            whole = self._integers[places]
        else:
            index = places if isinstance(places, slice) else places.to(self._order.device)
            whole = unit_integers(self._embeddings, self._order[index], self.device)
        return whole.double().div_(STEPS)

    def rounded(self, places: slice | Tensor, level: Level) -> tuple[Tensor, float]:
        """Unit vectors, (n, D), for products of this level, and the most that one of them lost."""
        if level.exact:
            return self.exact(places), 0.0
        if level.dtype == torch.float32:
            return self.exact(places).float(), 2.0**-24
        if self._bf16 is not None and self._lost is not None:
            return self._bf16[places], float(self._lost[places].max())
        narrow, lost = _in_bf16(self.exact(places))
        return narrow, float(lost.max())

    def similarities(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Exact similarities of pairs of places, (n,) float64 each, computed one by one."""
        result = torch.empty(len(rows), dtype=torch.float64, device=self.device)
        for begin in range(0, len(rows), _PAIRS):
            part = slice(begin, begin + _PAIRS)
            # Sums of multiples of 2^-52 of at most 1 are exact in any order.
            result[part] = (self.exact(rows[part]) * self.exact(columns[part])).sum(1)
        return result


class Side:
    """The vectors of one side of a tile, made at most once for each level while they are held.

    Args:
        vectors: of the set.
        places: (n,) int64, ascending, on the device.
    """

    def __init__(self, vectors: Vectors, places: Tensor) -> None:
        self.places = places
        self._vectors = vectors
        self._span = span(places)
        self._made: dict[Level, tuple[Tensor, float]] = {}

    def at(self, level: Level) -> tuple[Tensor, float]:
        """Unit vectors, (n, D), for products of this level, and the most that one of them lost."""
        if level not in self._made:
            self._made[level] = self._vectors.rounded(self._span, level)
        return self._made[level]

    def keep_only(self, level: Level) -> None:
        """Forget the vectors of all other levels."""
        self._made = {one: made for one, made in self._made.items() if one == level}


def span(places: Tensor) -> slice | Tensor:
    """Ascending places as a slice, if they are one: of vectors that are kept, a view."""
    first, last = int(places[0]), int(places[-1])
    return slice(first, last + 1) if last - first + 1 == len(places) else places


_PAIRS = 1024  # pairs that are computed at a time: their vectors should stay in the cache


def _in_bf16(exact: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors in bf16 and the length of what each lost, (n,) float64, rounded up."""
    narrow = exact.bfloat16()
    lost = torch.linalg.vector_norm(exact - narrow.double(), dim=1)
    return narrow, lost.mul_(1 + 2**-40)
