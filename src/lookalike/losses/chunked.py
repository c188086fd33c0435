"""Softmax statistics over many classes without the matrix of logits.

`class_statistics` walks over the classes in chunks that fit the cache. The forward pass keeps an
online log-sum-exp per row (Milakov and Gimelshein, arXiv 1805.02867); the backward pass computes
each chunk of logits again, which costs less than writing and reading them. There is no B x C
tensor, no one-hot matrix and no normalised copy of the weight.

The true class is masked inside its chunk, and its logit is made elsewhere from the row of the
weight returned here. Correcting a finished log-sum-exp instead is numerically wrong: at
scale 64, margin 0.35 and a cosine of 0.7 it gives -inf in float32 where the loss is 0.0618.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# A vector shorter than this has no direction: its cosine with everything is 0, and no gradient
# flows through its direction (1/norm would be one of 1e12 and more).
SHORTEST = 1e-12

_CPU_CHUNK = 2048  # x B=128 floats = 1 MB: a chunk of logits stays in the L2 cache
_GPU_CHUNK_BYTES = 64 * 2**20  # large enough to fill the device, small next to the weight


def unit_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of length 1 and the lengths they had; a row without a direction becomes zeros.

    Args:
        rows: (B, D).

    Returns:
        (B, D) and (B,), both differentiable.
    """
    norm = torch.linalg.vector_norm(rows, dim=1)  # (B,)
    inverse = (norm > SHORTEST) / norm.clamp_min(SHORTEST)  # (B,)
    return rows * inverse[:, None], norm


def inverse_norms(weight: Tensor, out: Tensor) -> Tensor:
    """1 / length of each row, (n,), written to `out`; 0 for rows without a direction."""
    norm = torch.linalg.vector_norm(weight, dim=1, out=out)
    short = norm <= SHORTEST
    return norm.clamp_min_(SHORTEST).reciprocal_().masked_fill_(short, 0)


def default_chunk(rows: int, weight: Tensor) -> int:
    """How many classes to take at once for a batch of `rows`, by the device of `weight`."""
    if weight.device.type == "cpu":
        return _CPU_CHUNK
    return max(1024, _GPU_CHUNK_BYTES // (max(rows, 1) * weight.element_size()))


def class_statistics(
    rows: Tensor,
    weight: Tensor,
    classes: Tensor,
    *,
    normalize: bool,
    need_total: bool = False,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What a softmax needs to know of all classes but the true one, and the true one's weight.

    With z_ij = rows_i . w_j, or rows_i . w_j / |w_j| when `normalize`, and y_i the class of
    row i:

        lse_i    = log sum over j != y_i of exp(z_ij)      (-inf over no class)
        total_i  = sum over j != y_i of z_ij               (zeros unless `need_total`)
        target_i = w of y_i, as it is                      (zeros where y_i is not in [0, n))

    All three are differentiable with respect to `rows` and `weight`, once. An autocast region
    changes nothing: it leaves products alone that are written in place or to `out`.

    Args:
        rows: (B, D), scaled as the logits shall be.
        weight: (n, D), of the same dtype; n may be 0.
        classes: (B,) int64, row of `weight`; a number outside [0, n) names no class here.
        normalize: whether the classes count by their direction only.
        need_total: whether `total` is wanted (label smoothing).
        chunk: classes at once; None for a default by device.

    Returns:
        lse (B,), total (B,), target (B, D).
    """
    size = default_chunk(len(rows), weight) if chunk is None else chunk
    lse, total, target = _ClassStatistics.apply(rows, weight, classes, normalize, need_total, size)
    return lse, total, target


class _Chunks:
    """The logits of one batch chunk by chunk, in one buffer."""

    def __init__(self, rows: Tensor, weight: Tensor, classes: Tensor, size: int) -> None:
        self.rows, self.weight, self.classes = rows, weight, classes
        self.size = max(1, min(size, len(weight)))
        self.buffer = self.new_buffer()

    def new_buffer(self) -> Tensor:
        return self.rows.new_empty(len(self.rows) * self.size)

    def spans(self) -> Iterator[slice]:
        for start in range(0, len(self.weight), self.size):
            yield slice(start, min(start + self.size, len(self.weight)))

    def block(self, buffer: Tensor, span: slice) -> Tensor:
        width = span.stop - span.start
        return buffer[: len(self.rows) * width].view(len(self.rows), width)

    def logits(self, span: slice, inverse: Tensor | None) -> Tensor:
        z = self.block(self.buffer, span)  # (B, n of the chunk)
        torch.mm(self.rows, self.weight[span].t(), out=z)
        return z if inverse is None else z.mul_(inverse[span])

    def mask_target(self, block: Tensor, span: slice, value: float) -> None:
        """Write `value` where the true class is; without asking which rows have theirs here."""
        column = self.classes - span.start  # (B,)
        inside = (column >= 0) & (column < block.shape[1])
        index = column.clamp(0, block.shape[1] - 1)[:, None]  # (B, 1)
        kept = block.gather(1, index)
        block.scatter_(1, index, kept.masked_fill_(inside[:, None], value))


class _ClassStatistics(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,  # (B, D)
        weight: Tensor,  # (n, D)
        classes: Tensor,  # (B,)
        normalize: bool,
        need_total: bool,
        size: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        chunks = _Chunks(rows, weight, classes, size)
        inverse = weight.new_empty(len(weight)) if normalize else None  # (n,)
        peak = rows.new_full((len(rows),), -torch.inf)  # (B,) highest logit so far
        mass = rows.new_zeros(len(rows))  # (B,) sum of exp(z - peak) so far
        total = rows.new_zeros(len(rows))  # (B,)
        lowest = torch.finfo(rows.dtype).min
        for span in chunks.spans():
            if inverse is not None:
                inverse_norms(weight[span], out=inverse[span])
            z = chunks.logits(span, inverse)
            if need_total:
                chunks.mask_target(z, span, 0)
                total += z.sum(1)
            chunks.mask_target(z, span, -torch.inf)
            # Not below the lowest number: a chunk that holds the true class alone has no
            # peak, and -inf - -inf is not a number.
            higher = torch.maximum(peak, z.amax(1)).clamp_min_(lowest)
            mass.mul_(peak.sub_(higher).exp_()).add_(z.sub_(higher[:, None]).exp_().sum(1))
            peak = higher
        lse = mass.log_().add_(peak)
        target, _, _ = _target_rows(weight, classes)
        ctx.save_for_backward(rows, weight, classes, inverse, lse)
        ctx.need_total, ctx.size = need_total, size
        return lse, total, target

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_lse: Tensor, d_total: Tensor, d_target: Tensor
    ) -> tuple[Tensor | None, ...]:
        rows, weight, classes, inverse, lse = ctx.saved_tensors
        need_weight = ctx.needs_input_grad[1]
        chunks = _Chunks(rows, weight, classes, ctx.size)
        spare = chunks.new_buffer()
        d_rows = torch.zeros_like(rows)
        d_weight = torch.empty_like(weight) if need_weight else None
        for span in chunks.spans():
            z = chunks.logits(span, inverse)
            d_z = torch.sub(z, lse[:, None], out=chunks.block(spare, span))
            d_z.exp_().mul_(d_lse[:, None])
            if ctx.need_total:
                d_z += d_total[:, None]
            chunks.mask_target(d_z, span, 0)  # also where exp was infinite
            if inverse is not None:
                # z = rows . w / |w|, hence with u = w / |w|:
                #   dw = (sum_i dz_i rows_i - (sum_i dz_i z_i) u) / |w|
                # The second term goes first; the product below adds to it.
                if d_weight is not None:
                    along = z.mul_(d_z).sum(0).mul_(inverse[span]).mul_(inverse[span])
                    torch.mul(weight[span], along.neg_()[:, None], out=d_weight[span])
                d_z.mul_(inverse[span])
            if d_weight is not None:
                d_weight[span].addmm_(d_z.t(), rows, beta=0 if inverse is None else 1)
            d_rows.addmm_(d_z, weight[span])
        if d_weight is not None and len(weight):
            _, index, inside = _target_rows(weight, classes)
            d_weight.index_add_(0, index, d_target.where(inside[:, None], 0))
        return d_rows, d_weight, None, None, None, None


def _target_rows(weight: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The weight of each row's class (zeros if it is not here), its clamped index, and whether."""
    inside = (classes >= 0) & (classes < len(weight))  # (B,)
    if len(weight) == 0:
        return weight.new_zeros(len(classes), weight.shape[1]), classes, inside
    index = classes.clamp(0, len(weight) - 1)
    return weight[index] * inside[:, None], index, inside
