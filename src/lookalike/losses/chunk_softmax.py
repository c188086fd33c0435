"""Softmax over the (B, n) logits of a chunk of classes, forward and backward, in plain torch.

For any device, and the reference of the Triton kernels (`lookalike.losses.triton_softmax`).

A row has one true class, whose column comes as (B,), or up to L of them, as (B, L); all of them
are left out of its sums.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LogitModulation:
    """Change of the logit z to a class that is not the true one; no gradient flows through it.

    z where z <= above, linear * z + square * z^2 above that, and no class at all where z > limit.
    Each is (B,).
    """

    above: Tensor
    linear: Tensor
    square: Tensor
    limit: Tensor

    def apply(self, z: Tensor) -> Tensor:
        """Change the logits (B, n), in place."""
        hard = z > self.above[:, None]
        out = z > self.limit[:, None]
        changed = z * (self.linear[:, None] + self.square[:, None] * z)
        return z.copy_(changed.where(hard, z)).masked_fill_(out, -torch.inf)

    def slope(self, z: Tensor) -> Tensor:
        """Derivative of the changed logits by the unchanged z (B, n), (B, n)."""
        steep = self.linear[:, None] + 2 * self.square[:, None] * z
        slope = steep.where(z > self.above[:, None], 1)
        return slope.masked_fill_(z > self.limit[:, None], 0)


@dataclass(frozen=True)
class RowSums:
    """Softmax statistics of each row over the chunks so far.

    Attributes:
        peak: (B,) highest logit.
        mass: (B,) sum of exp(z - peak).
        total: (B,) sum of z, None where it is not needed.
    """

    peak: Tensor
    mass: Tensor
    total: Tensor | None

    @classmethod
    def empty(cls, embeddings: Tensor, need_total: bool) -> RowSums:
        """Statistics before the first chunk."""
        zeros = embeddings.new_zeros(len(embeddings))
        total = zeros.clone() if need_total else None
        return cls(torch.full_like(zeros, -torch.inf), zeros, total)

    def lse(self) -> Tensor:
        """Log of the sum of exp(z), (B,); -inf over no class."""
        return self.mass.log().add_(self.peak)


def add_chunk(
    sums: RowSums, z: Tensor, column: Tensor | None, modulation: LogitModulation | None
) -> Tensor:
    """Add a chunk of logits to the sums in place, without the true class. Overwrites `z`.

    Online log-sum-exp (Milakov and Gimelshein, arXiv 1805.02867).

    Args:
        sums: updated in place.
        z: (B, n) logits.
        column: (B,) or (B, L) of the true classes; outside [0, n) where one is in another chunk,
            or is none. None where all are.

    Returns:
        (B,) factor by which the higher peak shrinks earlier sums.
    """
    if modulation is not None:
        modulation.apply(z)
    if sums.total is not None:
        put_in_column(z, column, 0)
        sums.total.add_(z.sum(1))
    put_in_column(z, column, -torch.inf)
    # Not below the lowest number: a chunk that holds the true class alone has no peak, and
    # -inf - -inf is not a number.
    higher = torch.maximum(sums.peak, z.amax(1)).clamp_min_(torch.finfo(z.dtype).min)
    shrink = torch.exp(sums.peak - higher)
    z.sub_(higher[:, None]).clamp_min_(_negligible(z.dtype)).exp_()
    sums.mass.mul_(shrink).add_(z.sum(1)).masked_fill_(higher == torch.finfo(z.dtype).min, 0)
    sums.peak.copy_(higher)
    return shrink


def add_shares(
    sums: RowSums,
    z: Tensor,
    column: Tensor | None,
    modulation: LogitModulation | None,
    out: Tensor,
    *,
    inverse: Tensor | None = None,
) -> Tensor:
    """`add_chunk`, and the share of each logit in the gradient of lse by the products.

    Before all chunks are done that gradient is known up to a factor of each row: `out` (B, n)
    becomes exp(modulated z - peak) * slope * inverse, 0 for the true class, with the peak so far.
    Summed up over the chunks, and shrunk where the peak rises, it is to be divided by the mass.

    Args:
        sums: updated in place.
        z: (B, n) logits; overwritten.
        column: as in `add_chunk`.
        out: `z` itself, or of another dtype.
        inverse: (n,) factor of each column by which the products became logits.

    Returns:
        (B,) factor for earlier shares.
    """
    slope = None if modulation is None else modulation.slope(z)
    shrink = add_chunk(sums, z, column, modulation)
    if slope is not None:
        z.mul_(slope)
    put_in_column(z, column, 0)
    if inverse is not None:
        z.mul_(inverse)
    if out is not z:
        out.copy_(z)
    return shrink


def logit_gradient(
    z: Tensor,
    lse: Tensor,
    d_lse: Tensor,
    d_total: Tensor | None,
    d_true: Tensor,
    column: Tensor | None,
    modulation: LogitModulation | None,
    out: Tensor,
    *,
    inverse: Tensor | None = None,
    along: Tensor | None = None,
) -> Tensor:
    """The gradient by the products of a chunk, (B, n), written to `out`.

    With `inverse` the logits are z * inverse: the factor is applied before the gradient and again
    after it.

    Args:
        z: (B, n) products; overwritten where `inverse` or `along` is given.
        lse: (B,) over all chunks; not below the lowest number.
        d_lse: (B,) gradient of lse.
        d_total: (B,) gradient of total, None where it is not needed.
        d_true: gradient of the true logits, of the shape of `column`.
        column: as in `add_chunk`.
        out: of the dtype of `z` or a narrower one.
        inverse: (n,) factor of each column.
        along: (n,), takes the sum over the rows of logit * gradient by the logit.
    """
    if inverse is not None:
        z.mul_(inverse)
    d_z = out if out.dtype == z.dtype else torch.empty_like(z)
    if modulation is None:
        torch.sub(z, lse[:, None], out=d_z)
    else:
        torch.sub(modulation.apply(d_z.copy_(z)), lse[:, None], out=d_z)
    d_z.clamp_min_(_negligible(z.dtype)).exp_().mul_(d_lse[:, None])
    if d_total is not None:
        d_z.add_(d_total[:, None])
    if modulation is not None:
        # At the true class exp may have been infinite; it is overwritten below.
        d_z.mul_(modulation.slope(z))
    put_in_column(d_z, column, d_true)
    if along is not None:
        torch.sum(z.mul_(d_z), 0, out=along)
    if inverse is not None:
        d_z.mul_(inverse)
    return out if d_z is out else out.copy_(d_z)


def _negligible(dtype: torch.dtype) -> float:
    """Log of a share of the softmax below the resolution of any sum in `dtype`.

    Smaller shares are raised to it: their exp, or products with it, would be denormal numbers,
    with which a CPU is a hundred times slower.
    """
    return 2.5 * math.log(torch.finfo(dtype).eps)


def put_in_column(block: Tensor, column: Tensor | None, value: Tensor | float) -> None:
    """Write `value` (a number, or one for each entry of `column`) at the true classes.

    Masked rather than selected: reading from the device which rows have theirs here would make
    the host wait.
    """
    if column is None:
        return
    if column.ndim == 2:
        # One after the other: entries outside of the block share a place with those inside.
        for number, each in enumerate(column.unbind(1)):
            put_in_column(block, each, value[:, number] if isinstance(value, Tensor) else value)
        return
    inside = (column >= 0) & (column < block.shape[1])
    index = column.clamp(0, block.shape[1] - 1)[:, None]  # (B, 1)
    kept = block.gather(1, index)
    if isinstance(value, Tensor):
        block.scatter_(1, index, value[:, None].to(block.dtype).where(inside[:, None], kept))
    else:
        block.scatter_(1, index, kept.masked_fill_(inside[:, None], value))
