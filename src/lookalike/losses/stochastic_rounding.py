"""Stochastic rounding to bfloat16.

A weight in bfloat16 has 8 bits: an update of less than 1/512 of it would always be rounded away.
Rounded up or down at random, with probabilities such that the mean is right, small updates add
up (Gupta et al., Deep Learning with Limited Numerical Precision, arXiv 1502.02551).
"""

import torch
from torch import Tensor

_BLOCK = 2**20  # random numbers a step; every chunk begins elsewhere in them
_SHIFTS = 2**16


class Noise:
    """Random bits that follow from (seed, step, chunk) alone."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._step = 0
        self._uses = 0
        self._block: Tensor | None = None
        self._device = torch.device("cpu")

    def renew(self, step: int, device: torch.device) -> None:
        """Start the bits of a step; they are drawn on first use."""
        self._step, self._uses, self._block, self._device = step, 0, None, device

    def bits(self, count: int, name: str) -> Tensor:
        """(count,) int32 in [0, 2^16)."""
        if self._block is None or self._block.device != self._device:
            generator = torch.Generator(self._device).manual_seed(_mixed(self.seed, self._step))
            self._block = torch.randint(
                2**16, (_BLOCK + _SHIFTS,), dtype=torch.int32, generator=generator,
                device=self._device,
            )  # fmt: skip
        self._uses += 1
        first = _mixed(self._uses, len(name)) % _SHIFTS
        block = self._block
        if first + count > len(block):
            block = block.repeat(-(-(first + count) // len(block)))
        return block[first : first + count]


def store(tensor: Tensor, where: slice | Tensor, value: Tensor, noise: Noise, name: str) -> None:
    """Write `value` to the rows `where` of `tensor`; stochastic rounding where it is narrower."""
    target = tensor.detach()
    if value.dtype != tensor.dtype and tensor.dtype == torch.bfloat16:
        # A bfloat16 is the upper half of a float32: random bits added to the lower half carry
        # into the upper one with just the right probability.
        bits = value.view(torch.int32)
        bits.add_(noise.bits(value.numel(), name).view_as(bits)).bitwise_and_(-65536)
    if isinstance(where, slice):
        place = target[where]
        if place.data_ptr() != value.data_ptr():
            place.copy_(value)
    else:
        target.index_copy_(0, where, value.to(tensor.dtype))


def _mixed(first: int, second: int) -> int:
    """One number of 63 bits from two (SplitMix64's finaliser)."""
    value = (first * 0x9E3779B97F4A7C15 + second + 1) & (2**64 - 1)
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & (2**64 - 1)
    return (value ^ value >> 31) & (2**63 - 1)
