"""Fast similarities, and a proved bound on their distance from the exact ones.

An exact similarity is a float64 product of fixed-point vectors (`exact_similarity`). A fast one is
a matrix product of the same vectors in bf16 or float32. With u, v the exact vectors, x, y their
rounded copies and r = |u - x|, q = |v - y| the lengths of what rounding took away (which are
computed, not bounded):

    |u.v - x.y|  =  |(u - x).v + x.(v - y)|  <=  r |v| + |x| q              (Cauchy and Schwarz)

The products of two bf16 or float32 numbers are added in float32. Whatever the order, D rounded
additions err by at most D s |x| |y|, where s is the error of one: 2^-24 for IEEE float32 (Higham,
Accuracy and Stability of Numerical Algorithms, 2002, section 3.1). For bf16 products s is taken
as 2^-22, which leaves room for units that truncate instead of rounding, as tensor cores do. A
result that is stored as bf16 is off by half a unit in its last place besides.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lookalike.metrics.exact_similarity import STEPS, unit_integers
from lookalike.metrics.reused_memory import ReusedMemory

KEPT_BYTES = 640 * 2**20
"""Memory for vectors that are kept beside the embeddings."""

_ROWS = 512  # rows that are rounded at a time: their vectors should stay in the cache
_PAIRS = 512  # pairs that are computed at a time, as well


@dataclass(frozen=True)
class Precision:
    """A way to multiply matrices.

    Attributes:
        dtype: of the operands.
        result: of the product.
        step: relative error of one addition.
        most_undecided: share of the pairs of a tile up to which computing these one by one is
            cheaper than the tile in the next precision.
    """

    dtype: torch.dtype
    result: torch.dtype
    step: float
    most_undecided: float

    @property
    def exact(self) -> bool:
        """True if products are the exact similarities."""
        return self.dtype == torch.float64


EXACT = Precision(torch.float64, torch.float64, 0.0, 1.0)
# Deciding a pair alone takes some 1 us where a float64 tile takes 14 ns, a float32 tile 5 and a
# bf16 tile 2.5 ns a pair (512 dimensions, two cores of an EPYC).
FLOAT32 = Precision(torch.float32, torch.float32, 1.01 * 2**-24, 1 / 100)
BFLOAT16 = Precision(torch.bfloat16, torch.bfloat16, 2.0**-22, 1 / 300)
_BFLOAT16_WIDE = Precision(torch.bfloat16, torch.float32, 2.0**-22, 1 / 300)


def precisions(device: torch.device) -> list[Precision]:
    """Precisions that are worth it on this device, the fastest first, the exact one last."""
    chosen = [EXACT]
    if _float32_is_float32(device):
        chosen.insert(0, FLOAT32)
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            chosen.insert(0, _BFLOAT16_WIDE)
    elif bf16_is_faster():
        chosen.insert(0, BFLOAT16)
    return chosen


def _float32_is_float32(device: torch.device) -> bool:
    """True unless products of float32 in fewer bits are allowed."""
    backends: Any = torch.backends  # which torch describes in part
    own = (backends.cuda if device.type == "cuda" else backends.mkldnn).matmul.fp32_precision
    return (backends.fp32_precision if own == "none" else own) in ("none", "ieee")


@lru_cache
def bf16_is_faster() -> bool:
    """Microbenchmark of bf16 against float32 matrix products on this processor; some 20 ms."""
    operands = [torch.ones(512, 512, dtype=dtype) for dtype in (torch.bfloat16, torch.float32)]
    fastest = [math.inf, math.inf]
    for _ in range(8):  # in turns, and the best of each: others may use the processor, too
        for which, x in enumerate(operands):
            began = time.perf_counter()
            torch.mm(x, x)
            fastest[which] = min(fastest[which], time.perf_counter() - began)
    return fastest[0] < 0.8 * fastest[1]


@dataclass(frozen=True)
class ErrorBound:
    """Largest distance of the similarities of one tile from the exact ones."""

    precision: Precision  # of the tile
    width: float  # bound for every similarity, without the rounding of the result

    @classmethod
    def of(
        cls, precision: Precision, dim: int, lost_rows: float, lost_columns: float
    ) -> ErrorBound:
        """For products of `dim` terms, with r and q the largest `lost_rows`, `lost_columns`."""
        if precision.exact:
            return cls(precision, 0.0)
        unit = 1 + (math.sqrt(dim) + 1) * 2**-26  # fixed-point vectors are a little off length 1
        rows, columns = unit + lost_rows, unit + lost_columns
        width = lost_rows * unit + rows * lost_columns + dim * precision.step * rows * columns
        return cls(precision, width * (1 + 2**-30) + 2**-50)

    def around(self, fast: Tensor) -> Tensor:
        """The largest error of these similarities, float64 like them."""
        if self.precision.result != torch.bfloat16:
            return torch.full_like(fast, self.width)
        exponent = torch.frexp(fast).exponent  # |fast| < 2^exponent, and half a unit is 2^-9 of it
        return torch.ldexp(torch.full_like(fast, 2**-9), exponent).add_(self.width)

    def floor(self, least: Tensor) -> Tensor:
        """The lowest fast similarities, (b,), whose exact ones can reach `least`, (b,) float64."""
        if self.precision.exact:
            return least
        low = least - self.width
        if self.precision.result == torch.bfloat16:
            low = torch.where(low > 0, low / (1 + 2**-8), low / (1 - 2**-8))
        rounded = low.to(self.precision.result)
        wide = rounded.double()
        # One unit in the last place down where rounding went up.
        lower = (wide - wide.abs() * torch.finfo(self.precision.result).eps).to(rounded.dtype)
        return torch.where(wide > low, lower, rounded)


class UnitVectors:
    """Exact and rounded unit vectors of N images, in an order of their own.

    Exact ones are multiples of 2^-26 in float64. The bf16 vectors (if bf16 is the fastest) and then
    the fixed-point ones are kept if they fit in `KEPT_BYTES`, otherwise made again on each use.

    Args:
        embeddings: (N, D), finite.
        order: (N,) int64: place to row of `embeddings`.
        fastest: the precision of most products.
    """

    def __init__(
        self, embeddings: Tensor, order: Tensor, device: torch.device, fastest: Precision
    ) -> None:
        self._embeddings = embeddings
        self._order = order
        self.device = device
        self._memory = ReusedMemory(device)
        self.count, self.dim = embeddings.shape
        self._integers: Tensor | None = None
        self._bf16: Tensor | None = None
        self._lost: Tensor | None = None
        numbers = self.count * self.dim
        left = KEPT_BYTES
        if fastest.dtype == torch.bfloat16 and 2 * numbers <= left:
            left -= 2 * numbers
            self._bf16 = torch.empty(embeddings.shape, dtype=torch.bfloat16, device=device)
            self._lost = torch.empty(self.count, dtype=torch.float64, device=device)
        if 4 * numbers <= left:
            self._integers = torch.empty(embeddings.shape, dtype=torch.int32, device=device)
        if self.keeps_fast:
            for begin in range(0, self.count, _ROWS):
                self._keep(slice(begin, begin + _ROWS))

    def _keep(self, part: slice) -> None:
        whole = unit_integers(self._embeddings, self._order[part], self.device, self._memory)
        if self._integers is not None:
            self._integers[part] = whole
        if self._bf16 is not None and self._lost is not None:
            exact = self._memory.take("exact", tuple(whole.shape), torch.float64)
            exact.copy_(whole).div_(STEPS)
            self._bf16[part], self._lost[part] = self._in_bf16(exact)

    @property
    def keeps_fast(self) -> bool:
        """True if vectors of the fastest precision come from memory that is kept."""
        return self._bf16 is not None or self._integers is not None

    def exact(self, places: slice | Tensor) -> Tensor:
        """Exact unit vectors, (n, D) float64, of a slice or of (n,) int64 places on the device."""
        if self._integers is not None:
            whole = self._integers[places]
        else:
            index = places if isinstance(places, slice) else places.to(self._order.device)
            order = self._order[index]
            whole = unit_integers(self._embeddings, order, self.device, self._memory)
        return whole.double().div_(STEPS)

    def rounded(self, places: slice | Tensor, precision: Precision) -> tuple[Tensor, float]:
        """Unit vectors, (n, D), for products in this precision, and the most that one lost."""
        if precision.exact:
            return self.exact(places), 0.0
        if precision.dtype == torch.float32:
            return self.exact(places).float(), 2.0**-24
        if self._bf16 is not None and self._lost is not None:
            return self._bf16[places], float(self._lost[places].max())
        narrow, lost = self._in_bf16(self.exact(places))
        return narrow, float(lost.max())

    def similarities(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Exact similarities of pairs of places, (n,) float64 each, computed one by one."""
        result = torch.empty(len(rows), dtype=torch.float64, device=self.device)
        for begin in range(0, len(rows), _PAIRS):
            part = slice(begin, begin + _PAIRS)
            x, y = self._exact_in("exact", rows[part]), self._exact_in("other", columns[part])
            # Sums of multiples of 2^-52 of at most 1 are exact in any order.
            result[part] = torch.mul(x, y, out=x).sum(1)
        return result

    def _exact_in(self, name: str, places: Tensor) -> Tensor:
        """`exact` of places, in reused memory of this name."""
        shape = (len(places), self.dim)
        if self._integers is None:
            order = self._order[places.to(self._order.device)]
            whole = unit_integers(self._embeddings, order, self.device, self._memory)
        else:
            whole = self._memory.take("integers", shape, torch.int32)
            torch.index_select(self._integers, 0, places, out=whole)
        return self._memory.take(name, shape, torch.float64).copy_(whole).div_(STEPS)

    def _in_bf16(self, exact: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors in bf16 and the length of what each lost, (n,) float64, rounded up."""
        narrow = exact.bfloat16()
        wide = self._memory.take("wide", tuple(exact.shape), torch.float64).copy_(narrow)
        lost = torch.linalg.vector_norm(torch.sub(exact, wide, out=wide), dim=1)
        return narrow, lost.mul_(1 + 2**-40)


def span(places: Tensor) -> slice | Tensor:
    """Ascending places as a slice, if they are one: of vectors that are kept, a view."""
    first, last = int(places[0]), int(places[-1])
    return slice(first, last + 1) if last - first + 1 == len(places) else places
