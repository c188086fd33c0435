"""Exact similarities of fixed-point unit vectors: the same results in any order, on any device.

Unit vectors are rounded to integers in steps of 2^-26, and similarities are float64 matrix
products of these integers. Every product is a multiple of 2^-52 and, by Cauchy and Schwarz, every
partial sum is at most 1 (plus rounding): float64 holds all of them exactly. So a similarity
depends on its two vectors only: not on the order of summation, the place in a tile, the number of
threads or workers, or the device. The rounding moves a similarity by about 6e-9, less than
float32's own arithmetic does (about 1e-7).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lookalike.metrics.reused_memory import ReusedMemory

STEPS = 2**26
"""A unit vector's coordinates are integers of at most this size."""

UNIT = float(STEPS) ** 2
"""A cosine of 1 in steps of a similarity, 2^-52."""

TIE = 2**29
"""2^-23, float32's epsilon, in steps of a similarity."""

_NUMBERS = 2**18  # float64 numbers of embeddings that are rounded at a time: 2 MB


def unit_integers(
    embeddings: Tensor, order: Tensor, device: torch.device, memory: ReusedMemory | None = None
) -> Tensor:
    """Unit vectors in steps of 2^-26, (n, D) int32, in the given order.

    Args:
        embeddings: (N, D), finite, of any floating type and length; a zero vector stays zero.
        order: (n,) int64, rows of `embeddings`.
        device: of the result; float64 must exist there.
        memory: on the device, of earlier calls.
    """
    memory = memory or ReusedMemory(device)
    result = torch.empty(len(order), embeddings.shape[1], dtype=torch.int32, device=device)
    step = max(1, _NUMBERS // max(1, embeddings.shape[1]))
    for begin in range(0, len(order), step):
        rows = order[begin : begin + step].to(embeddings.device)
        shape = (len(rows), embeddings.shape[1])
        x = memory.take("unit", shape, torch.float64).copy_(embeddings[rows])  # (b, D)
        square = memory.take("square", shape, torch.float64)
        peak = torch.abs(x, out=square).amax(1, keepdim=True)  # (b, 1); no square overflows
        x /= peak.masked_fill_(peak == 0, 1)
        norm = tree_sum(torch.mul(x, x, out=square), memory).sqrt_()[:, None]  # (b, 1)
        x /= norm.masked_fill_(norm == 0, 1)
        result[begin : begin + step] = x.mul_(STEPS).round_()
    return result


def tree_sum(x: Tensor, memory: ReusedMemory | None = None) -> Tensor:
    """Sums of the rows, (b, W) -> (b,), in a fixed order: neighbours, then their sums, and so on.

    The same bits on any device, for any b, and for any number of zeros behind. torch.sum's order
    depends on shapes and threads.
    """
    while x.shape[1] > 1:
        if x.shape[1] % 2:
            x = torch.nn.functional.pad(x, (0, 1))
        half = (len(x), x.shape[1] // 2)
        out = None if memory is None else memory.take(f"sum of {half[1]}", half, x.dtype)
        x = torch.add(x[:, 0::2], x[:, 1::2], out=out)
    return x.sum(1)
