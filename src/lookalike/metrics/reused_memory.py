"""Memory of temporary results, allocated once for many chunks."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class ReusedMemory:
    """Blocks of memory by name, each as large as the largest result that it held.

    malloc returns large blocks to the system, and each new one has a page fault for every 4 KB.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._blocks: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor; the next one of this name and dtype overwrites it."""
        count = math.prod(shape)
        block = self._blocks.get((name, dtype))
        if block is None or block.numel() < count:
            block = torch.empty(count, dtype=dtype, device=self._device)
            self._blocks[name, dtype] = block
        return block[:count].view(shape)
