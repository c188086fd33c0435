"""How class weights begin."""

import numpy as np
import torch
from torch import Tensor

# Class weights are drawn in blocks of this many rows. Part of what a seed means: another number
# draws other values.
_BLOCK = 1024


def initial_weight(
    rows: range, dim: int, *, seed: int, std: float, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Normal weights of the rows `rows`, (len(rows), D), the same for any sharding.

    Each block of rows has a generator of its own, so that a worker draws only the blocks that it
    holds a part of.
    """
    weight = torch.empty(len(rows), dim, dtype=dtype)
    for block in range(rows.start // _BLOCK, -(-rows.stop // _BLOCK) if rows else 0):
        (state,) = np.random.SeedSequence([seed, block]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state))
        values = torch.randn(_BLOCK, dim, generator=generator).mul_(std)
        first = max(rows.start, block * _BLOCK)
        stop = min(rows.stop, (block + 1) * _BLOCK)
        weight[first - rows.start : stop - rows.start] = values[
            first - block * _BLOCK : stop - block * _BLOCK
        ]
    return weight
