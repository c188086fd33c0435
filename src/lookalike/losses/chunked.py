"""Softmax statistics over many classes without the matrix of logits.

`class_statistics` walks over the classes in chunks that fit the cache. The forward pass keeps an
online log-sum-exp per row; the backward pass computes each chunk of logits again, which costs
less than writing and reading them. There is no B x C tensor, no one-hot matrix and no normalised
copy of the weight, and with an `Update` no gradient of the weight either: the backward pass then
gives the gradient of the rows and leaves to the update, through `Update.defer`, a second walk that
changes the weight when the step is known to be finite.

The true class is masked inside its chunk, and its logit is made elsewhere. Correcting a finished
log-sum-exp instead is numerically wrong: at scale 64, margin 0.35 and a cosine of 0.7 it gives
-inf in float32 where the loss is 0.0618.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lookalike.losses.directions import inverse_norms
from lookalike.losses.epilogue import LogitBend, RowSums
from lookalike.losses.kernels import epilogues
from lookalike.losses.walk import Chunks, Stash, Update, Walk, rows_of


class Statistics(NamedTuple):
    """What a softmax needs to know; see `class_statistics`. Each is (B,)."""

    lse: Tensor
    total: Tensor
    true: Tensor
    length: Tensor


def class_statistics(
    rows: Tensor,
    weight: Tensor,
    classes: Tensor,
    walk: Walk,
    *,
    index: Tensor | None = None,
    bend: Callable[[Tensor], LogitBend | None] | None = None,
    update: Update | None = None,
    workspace: dict[str, Tensor] | None = None,
) -> Statistics:
    """What a softmax needs to know of all classes but the true one, and the true one's logit.

    With z_ij = rows_i . w_j, or rows_i . w_j / |w_j| when `walk.normalize`, and y_i the class of
    row i:

        lse_i    = log sum over j != y_i of exp(bent z_ij)   (-inf over no class)
        total_i  = sum over j != y_i of bent z_ij            (zeros unless `walk.need_total`)
        true_i   = z of y_i                                  (zeros where it is not held)
        length_i = |w of y_i|                                (zeros where it is not held)

    With several centres a class, z_ij is the largest of theirs, and the length that of the
    nearest one. All are differentiable with respect to `rows` and `weight`, once; `length` only
    with `walk.need_length`, where the classes are not normalised. An autocast region changes
    nothing: it leaves products alone that are written to `out`.

    Args:
        rows: (B, D), scaled as the logits shall be.
        weight: (n * centres, D), class by class; n may be 0. Of the dtype of `rows`, or a
            narrower one when `update` is given.
        classes: (B,) int64, class held here; a number outside [0, n) names none.
        walk: how.
        index: (m,) int64, ascending: only these classes take part, and `classes` are positions
            in it. The rows are read in place; needs `update`.
        bend: given the true logits (B,), without gradient, what becomes of the others.
        update: takes the weight's gradient chunk by chunk after the backward pass, and changes
            the weight in place; the weight then gets no `grad`.
        workspace: keeps the buffers of the chunks for the next call.
    """
    if index is not None and update is None:
        raise ValueError("a sample of the classes needs an update that knows of it")
    space = {} if workspace is None else workspace
    return Statistics(
        *_ClassStatistics.apply(rows, weight, classes, walk, index, bend, update, space)
    )


class _ClassStatistics(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,  # (B, D)
        weight: Tensor,  # (n * centres, D)
        classes: Tensor,  # (B,)
        walk: Walk,
        index: Tensor | None,  # (m,)
        make_bend: Callable[[Tensor], LogitBend | None] | None,
        update: Update | None,
        workspace: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        chunks = Chunks(rows, weight, classes, walk, index, update, workspace)
        add_chunk, _ = epilogues(rows.device)
        true, length = _true_logits(chunks)
        bend = make_bend(true) if make_bend is not None else None
        inverse = rows.new_empty(chunks.count * walk.centres) if walk.normalize else None
        sums = RowSums.empty(rows, walk.need_total)
        stash = Stash(chunks, walk.stash if any(ctx.needs_input_grad) else 0)
        for span in chunks.spans():
            stored = chunks.read(chunks.where(span))
            z = chunks.products(chunks.operand(stored))
            stash.keep(span, z)
            if inverse is not None:
                # After the product, which has brought the weight into the cache.
                z.mul_(inverse_norms(stored, out=inverse[chunks.row_span(span)]))
            if walk.centres > 1:
                z = z.view(len(rows), span.stop - span.start, walk.centres).amax(2)
            add_chunk(sums, z, chunks.column(span), bend)
        lse = sums.lse()
        ctx.save_for_backward(rows, weight, classes, index, inverse, lse)
        ctx.walk, ctx.bend, ctx.update = walk, bend, update
        ctx.workspace, ctx.stash = workspace, stash
        total = sums.total if sums.total is not None else torch.zeros_like(lse)
        return lse, total, true, length

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_lse: Tensor, d_total: Tensor, d_true: Tensor, d_length: Tensor
    ) -> tuple[Tensor | None, ...]:
        rows, weight, classes, index, inverse, lse = ctx.saved_tensors
        walk, update = ctx.walk, ctx.update
        chunks = Chunks(rows, weight, classes, walk, index, update, ctx.workspace)
        stash, ctx.stash = ctx.stash, None  # used up here
        back = _Backward(
            chunks,
            # -inf over no class: nothing flows there, and -inf - -inf is not a number.
            lse.clamp_min(torch.finfo(lse.dtype).min),
            (d_lse, d_total if walk.need_total else None, d_true, d_length),
            ctx.bend,
            inverse,
            stash,
        )
        d_weight = None
        if update is None and ctx.needs_input_grad[1]:
            d_weight = torch.empty_like(weight)
        d_rows = back.of_rows(d_weight, keep=update is not None)
        if update is not None:
            update.defer(back.apply_update)
        else:
            stash.give_back()
        return d_rows, d_weight, None, None, None, None, None, None


@dataclass
class _Backward:
    """The backward pass of one batch.

    With an update it has two parts, for a step must not change anything before all gradients of
    the network are known to be finite: first the gradient of the rows, later, in
    `apply_update`, that of the weight, chunk by chunk. The logits are computed again for each
    part, but for those in the stash.

    Attributes:
        chunks: the batch and the weight.
        lse: (B,) not below the lowest number.
        gradients: of lse, total (None where it is not wanted), true and length, (B,) each.
        bend: what became of the logits.
        inverse: (m * centres,) 1 / length of each row of the weight, where it is normalised.
        stash: products of the forward pass.
    """

    chunks: Chunks
    lse: Tensor
    gradients: tuple[Tensor, Tensor | None, Tensor, Tensor]
    bend: LogitBend | None
    inverse: Tensor | None
    stash: Stash

    def of_rows(self, d_weight: Tensor | None, *, keep: bool) -> Tensor:
        """The gradient of the rows, (B, D).

        Args:
            d_weight: takes the gradient of the weight; None where it is not wanted now.
            keep: leave in the stash what `apply_update` needs.
        """
        chunks = self.chunks
        d_rows = torch.zeros_like(chunks.rows)
        for span in chunks.spans():
            place = chunks.where(span)
            stored = chunks.read(place)
            operand = chunks.operand(stored)
            sums = self._sums(span) if d_weight is not None or keep else None
            d_z = self._logit_gradient(span, operand, self.stash.take(span), sums)
            if keep:
                self.stash.replace(span, d_z, sums)
            if d_weight is not None:
                along = self._along(span, sums, stored)
                _weight_gradient(chunks, d_z, stored, along, d_weight[place])
            _add_product(chunks, d_rows, d_z, operand)
        return d_rows

    def apply_update(self) -> None:
        """Change the weight by its gradient; once, after `of_rows`."""
        chunks = self.chunks
        update = chunks.update
        assert update is not None
        for span in chunks.spans():
            place = chunks.where(span)
            stored = chunks.take(place)
            kept = self.stash.replaced(span)
            if kept is None:
                sums = self._sums(span)
                d_z = self._logit_gradient(span, chunks.operand(stored), None, sums)
            else:
                d_z, sums = kept[0].to(chunks.dtype), kept[1]
            along = self._along(span, sums, stored)
            update.use(chunks.weight, place, _weight_gradient(chunks, d_z, stored, along, None))
        self.stash.give_back()

    def _sums(self, span: slice) -> Tensor | None:
        """Room for the sums over the rows of logit * gradient, where the classes are normalised."""
        if self.inverse is None:
            return None
        own = self.inverse[self.chunks.row_span(span)]
        return self.chunks.buffer("along", own.shape, self.chunks.rows.dtype)

    def _logit_gradient(
        self, span: slice, operand: Tensor, z: Tensor | None, sums: Tensor | None
    ) -> Tensor:
        chunks = self.chunks
        own = None if self.inverse is None else self.inverse[chunks.row_span(span)]
        d_lse, d_total, d_true, _ = self.gradients
        if z is None:
            z = chunks.products(operand)
        of_rows = (self.lse, d_lse, d_total, d_true)
        return _logit_gradient(chunks, span, z, of_rows, self.bend, inverse=own, along=sums)

    def _along(self, span: slice, sums: Tensor | None, stored: Tensor) -> Tensor | None:
        own = None if self.inverse is None else self.inverse[self.chunks.row_span(span)]
        return _along(self.chunks, span, sums, own, self.gradients[3], stored)


def _logit_gradient(
    chunks: Chunks,
    span: slice,
    z: Tensor,
    of_rows: tuple[Tensor, Tensor, Tensor | None, Tensor],
    bend: LogitBend | None,
    *,
    inverse: Tensor | None,
    along: Tensor | None,
) -> Tensor:
    """The gradient by the products z (B, n * centres), in their dtype.

    See `lookalike.losses.epilogue.logit_gradient`; `of_rows` is its lse, d_lse, d_total, d_true.
    """
    _, logit_gradient = epilogues(z.device)
    column, k = chunks.column(span), chunks.walk.centres
    if k == 1:
        out = chunks.buffer("d_z", z.shape, chunks.dtype)
        return logit_gradient(z, *of_rows, column, bend, out, inverse=inverse, along=along)
    if inverse is not None:
        z.mul_(inverse)
    full = z.view(len(z), -1, k)
    highest, nearest = full.max(2)  # (B, n) each
    out = chunks.buffer("d_z", highest.shape, z.dtype)
    d_z = logit_gradient(highest, *of_rows, column, bend, out)
    spread = torch.zeros_like(full).scatter_(2, nearest[..., None], d_z[..., None]).flatten(1)
    if along is not None:
        torch.sum(z.mul_(spread), 0, out=along)
    if inverse is not None:
        spread.mul_(inverse)
    return spread.to(chunks.dtype)


def _along(
    chunks: Chunks,
    span: slice,
    sums: Tensor | None,
    inverse: Tensor | None,
    d_length: Tensor,
    stored: Tensor,
) -> Tensor | None:
    """What times each row of the weight is added to its gradient, (n * centres,).

    With u = w / |w| and z = rows . u the gradient of w is

        (sum_i dz_i rows_i - (sum_i dz_i z_i) u) / |w|

    and this is the factor of w in its second term; `sums` (n * centres,) is sum_i dz_i z_i, and
    overwritten. Where the classes are not normalised, it is the gradient of their length.
    """
    if inverse is not None and sums is not None:
        return sums.mul_(inverse).mul_(inverse).neg_()
    if not chunks.walk.need_length:
        return None
    column = chunks.column(span)
    if column is None:
        return None
    inside = (column >= 0) & (column < len(stored))
    index = column.clamp(0, len(stored) - 1)
    factor = d_length.new_zeros(len(stored)).index_add_(0, index, d_length.where(inside, 0))
    return factor.mul_(inverse_norms(stored, torch.empty_like(factor)))


def _weight_gradient(
    chunks: Chunks, d_z: Tensor, stored: Tensor, along: Tensor | None, out: Tensor | None
) -> Tensor:
    """(n * centres, D), of the dtype of the embeddings."""
    if chunks.narrow or stored.dtype != chunks.rows.dtype:
        gradient = chunks.product("gradient", d_z.t(), chunks.rows_in)
        if along is not None:
            gradient.addcmul_(stored.to(gradient.dtype), along[:, None])
        return gradient if out is None else out.copy_(gradient)
    if out is None:
        out = chunks.buffer("gradient", stored.shape, chunks.rows.dtype)
    if along is None:
        return torch.mm(d_z.t(), chunks.rows, out=out)
    return torch.mul(stored, along[:, None], out=out).addmm_(d_z.t(), chunks.rows)


def _add_product(chunks: Chunks, d_rows: Tensor, d_z: Tensor, operand: Tensor) -> None:
    if chunks.narrow:
        d_rows.add_(chunks.product("d_rows", d_z, operand))
    else:
        d_rows.addmm_(d_z, operand)


def _true_logits(chunks: Chunks) -> tuple[Tensor, Tensor]:
    """The logit of each row's class and the length of its weight, (B,) each; 0 where not held.

    Never in a narrow dtype: the margin's slope is steep where the cosine is near 1.
    """
    rows, walk, count = chunks.rows, chunks.walk, chunks.count
    if count == 0:
        return rows.new_zeros(len(rows)), rows.new_zeros(len(rows))
    inside = (chunks.classes >= 0) & (chunks.classes < count)
    own = chunks.classes.clamp(0, count - 1)
    if chunks.index is not None:
        own = chunks.index[own]
    k = walk.centres
    target = chunks.read(rows_of(own, k)).to(rows.dtype)  # (B * centres, D)
    inverse = inverse_norms(target, rows.new_empty(len(target))).view(-1, k)  # (B, centres)
    length = torch.linalg.vector_norm(target, dim=1).view(-1, k)
    true = (rows[:, None] * target.view(len(rows), k, -1)).sum(2)  # (B, centres)
    if walk.normalize:
        true = true * inverse
    best = true.argmax(1, keepdim=True)
    true, length = true.gather(1, best)[:, 0], length.gather(1, best)[:, 0]
    return true.where(inside, 0), length.where(inside, 0)
