"""Fast similarities and how far from the exact ones they can be.

An exact similarity is a float64 product of fixed-point vectors. A fast one is a matrix product of
the same vectors in bf16 or float32, and differs from it by at most a *margin* that is proved, not
estimated. With u, v the exact vectors, x, y their rounded copies and r = |u - x|, q = |v - y| the
lengths of what rounding took away (which are computed, not bounded):

    |u.v - x.y|  =  |(u - x).v + x.(v - y)|  <=  r |v| + |x| q              (Cauchy and Schwarz)

The products of two bf16 or float32 numbers are added in float32. Whatever the order, D rounded
additions err by at most D s |x| |y|, where s is the error of one: 2^-24 for IEEE float32 (Higham,
Accuracy and Stability of Numerical Algorithms, 2002, section 3.1). For bf16 products s is taken
as 2^-22, which leaves room for units that cut off instead of rounding, as tensor cores do. A
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


@dataclass(frozen=True)
class Level:
    """One way to multiply matrices.

    Attributes:
        dtype: of the operands.
        result: of the product.
        step: the relative error of one addition.
        bearable: the share of pairs that may stay undecided before the next level is cheaper than
            computing these one by one.
    """

    dtype: torch.dtype
    result: torch.dtype
    step: float
    bearable: float

    @property
    def exact(self) -> bool:
        """Whether its similarities are the exact ones."""
        return self.dtype == torch.float64


EXACT = Level(torch.float64, torch.float64, 0.0, 1.0)
# Deciding a pair alone takes some 1 us where a float64 tile takes 14 ns, a float32 tile 5 and a
# bf16 tile 2.5 ns a pair (512 dimensions, two cores of an EPYC).
_FLOAT32 = Level(torch.float32, torch.float32, 1.01 * 2**-24, 1 / 100)
_BFLOAT16 = Level(torch.bfloat16, torch.bfloat16, 2.0**-22, 1 / 300)
_BFLOAT16_WIDE = Level(torch.bfloat16, torch.float32, 2.0**-22, 1 / 300)


@dataclass(frozen=True)
class Margin:
    """How far the similarities of one tile can be from the exact ones.

    Attributes:
        level: how they were computed.
        width: what holds for every one of them, without the rounding of the result.
    """

    level: Level
    width: float

    @classmethod
    def of(cls, level: Level, dim: int, lost_rows: float, lost_columns: float) -> Margin:
        """The margin of products of `dim` terms.

        `lost_rows` and `lost_columns` are the largest r and q: what rounding took from a vector.
        """
        if level.exact:
            return cls(level, 0.0)
        unit = 1 + (math.sqrt(dim) + 1) * 2**-26  # fixed-point vectors are a little off length 1
        rows, columns = unit + lost_rows, unit + lost_columns
        width = lost_rows * unit + rows * lost_columns + dim * level.step * rows * columns
        return cls(level, width * (1 + 2**-30) + 2**-50)

    def around(self, fast: Tensor) -> Tensor:
        """The largest error of these similarities, float64 like them."""
        if self.level.result != torch.bfloat16:
            return torch.full_like(fast, self.width)
        exponent = torch.frexp(fast).exponent  # |fast| < 2^exponent, and half a unit is 2^-9 of it
        return torch.ldexp(torch.full_like(fast, 2**-9), exponent).add_(self.width)

    def floor(self, least: Tensor) -> Tensor:
        """The lowest fast similarities, (b,), whose exact ones can reach `least`, (b,) float64."""
        if self.level.exact:
            return least
        low = least - self.width
        if self.level.result == torch.bfloat16:
            low = torch.where(low > 0, low / (1 + 2**-8), low / (1 - 2**-8))
        rounded = low.to(self.level.result)
        wide = rounded.double()
        # One unit in the last place down where rounding went up.
        lower = (wide - wide.abs() * torch.finfo(self.level.result).eps).to(self.level.result)
        return torch.where(wide > low, lower, rounded)


def levels(device: torch.device) -> list[Level]:
    """The levels that are worth it on this device, the fastest first, the exact one last."""
    chosen = [EXACT]
    if _float32_is_float32(device):
        chosen.insert(0, _FLOAT32)
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            chosen.insert(0, _BFLOAT16_WIDE)
    elif _bf16_is_faster():
        chosen.insert(0, _BFLOAT16)
    return chosen


def _float32_is_float32(device: torch.device) -> bool:
    """Whether nobody has allowed products of float32 in fewer bits than it has."""
    backends: Any = torch.backends  # which torch describes in part
    own = (backends.cuda if device.type == "cuda" else backends.mkldnn).matmul.fp32_precision
    return (backends.fp32_precision if own == "none" else own) in ("none", "ieee")


@lru_cache
def _bf16_is_faster() -> bool:
    """Whether this processor multiplies matrices faster in bf16 than in float32; some 20 ms."""
    operands = [torch.ones(512, 512, dtype=dtype) for dtype in (torch.bfloat16, torch.float32)]
    fastest = [math.inf, math.inf]
    for _ in range(8):  # in turns, and the best of each: others may use the processor, too
        for which, x in enumerate(operands):
            began = time.perf_counter()
            torch.mm(x, x)
            fastest[which] = min(fastest[which], time.perf_counter() - began)
    return fastest[0] < 0.8 * fastest[1]
