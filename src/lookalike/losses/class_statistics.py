"""Softmax statistics over many classes without the matrix of logits.

The forward pass goes over the classes in chunks that fit the cache and keeps an online
log-sum-exp per row, and beside it, rescaled alike, the sum that becomes the gradient of the rows
(as the output in FlashAttention, arXiv 2205.14135): the backward pass only scales it. For the
gradient of the weight a second pass computes each chunk of logits again, which costs less than
writing and reading them. There is no B x C tensor, no one-hot matrix and no normalised copy of the
weight, and with a `HeadUpdate` no gradient of the weight either: the second pass is then deferred
to the update, and changes the weight once the step is known to be finite.

The true classes are masked inside their chunks, and their logits are made elsewhere. Correcting a
finished log-sum-exp instead is numerically wrong: at scale 64, margin 0.35 and a cosine of 0.7 it
gives -inf in float32 where the loss is 0.0618.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lookalike.losses.chunk_products import ChunkOptions, Chunks, LogitCache, rows_of
from lookalike.losses.chunk_softmax import LogitModulation, RowSums, put_in_column
from lookalike.losses.head_update import HeadUpdate
from lookalike.losses.kernels import softmax_kernels
from lookalike.losses.logits import inverse_norms


def class_statistics(
    embeddings: Tensor,
    weight: Tensor,
    classes: Tensor,
    options: ChunkOptions,
    *,
    index: Tensor | None = None,
    modulate: Callable[[Tensor], LogitModulation | None] | None = None,
    update: HeadUpdate | None = None,
    workspace: dict[str, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Statistics of the logits to all classes but the true one, and the true one's logit.

    With z_ij = x_i . w_j, or x_i . w_j / |w_j| when `options.normalize`, z'_ij the modulated
    logit, and y_i the class of row i, or any of up to L of them, the results are (B,) each, and the
    last two (B, L) where `classes` are:

        lse_i    = log sum over j != y_i of exp(z'_ij)   (-inf over no class)
        total_i  = sum over j != y_i of z'_ij            (zeros unless `options.need_total`)
        true_i   = z of y_i                              (zeros where it is not held)
        length_i = |w of y_i|                            (zeros where it is not held)

    With several centres a class, z_ij is the largest of theirs, and the length that of the
    nearest one. All are differentiable with respect to `embeddings` and `weight`, once; `length`
    only with `options.need_length`, where the classes are not normalised. Unchanged by autocast,
    which leaves products alone that are written to `out`.

    Args:
        embeddings: (B, D), x_i, scaled as the logits shall be.
        weight: (n * centres, D), class by class; n may be 0. Of the dtype of `embeddings`, or a
            narrower one when `update` is given.
        classes: (B,) or (B, L) int64, different classes held here; a number outside [0, n) for
            none.
        options: of the pass over the classes.
        index: (m,) int64, ascending: only these classes take part, and `classes` are positions
            in it. The rows are read in place; needs `update`.
        modulate: gives the change of the other logits for the true logits, without gradient.
        update: takes the weight's gradient chunk by chunk after the backward pass, and changes
            the weight in place; the weight then gets no `grad`.
        workspace: keeps the buffers of the chunks for the next call.
    """
    if index is not None and update is None:
        raise ValueError("a sample of the classes needs a lazy update")
    space = {} if workspace is None else workspace
    found: tuple[Tensor, Tensor, Tensor, Tensor] = _ClassStatistics.apply(
        embeddings, weight, classes, options, index, modulate, update, space
    )
    return found


class _ClassStatistics(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,  # (B, D)
        weight: Tensor,  # (n * centres, D)
        classes: Tensor,  # (B,) or (B, L)
        options: ChunkOptions,
        index: Tensor | None,  # (m,)
        modulate: Callable[[Tensor], LogitModulation | None] | None,
        update: HeadUpdate | None,
        workspace: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        chunks = Chunks(embeddings, weight, classes, options, index, update, workspace)
        true, length, own = _true_logits(chunks)
        modulation = modulate(true) if modulate is not None else None
        inverse = (
            embeddings.new_empty(chunks.count * options.centres) if options.normalize else None
        )
        sums = RowSums.empty(embeddings, options.need_total)
        cache = LogitCache(chunks, any(ctx.needs_input_grad))
        slopes = _RowSlopes(chunks, modulation, own) if ctx.needs_input_grad[0] else None
        for span in chunks.spans():
            stored = chunks.read(chunks.where(span))
            operand = chunks.operand(stored)
            products = chunks.products(operand, cache.take(span))
            # Another block where the products are kept; else the same.
            z = chunks.buffer("products", products.shape, products.dtype)
            part = None
            if inverse is not None:
                # After the product, which has brought the weight into the cache.
                part = inverse_norms(stored, out=inverse[chunks.row_span(span)])
                torch.mul(products, part, out=z)
            elif z.data_ptr() != products.data_ptr():
                z.copy_(products)
            if slopes is not None:
                slopes.add(sums, span, z, operand, part)
            else:
                if options.centres > 1:
                    z = z.view(len(embeddings), -1, options.centres).amax(2)
                softmax_kernels(z).add_chunk(sums, z, chunks.column(span), modulation)
        lse = sums.lse()
        of_rows = (None, None, None) if slopes is None else slopes.result(sums)
        ctx.save_for_backward(embeddings, weight, classes, index, inverse, lse, *of_rows)
        ctx.options, ctx.modulation, ctx.update = options, modulation, update
        ctx.workspace, ctx.cache = workspace, cache
        total = sums.total if sums.total is not None else torch.zeros_like(lse)
        return lse, total, true, length

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_lse: Tensor, d_total: Tensor, d_true: Tensor, d_length: Tensor
    ) -> tuple[Tensor | None, ...]:
        embeddings, weight, classes, index, inverse, lse, by_lse, by_total, own = ctx.saved_tensors
        options, update = ctx.options, ctx.update
        chunks = Chunks(embeddings, weight, classes, options, index, update, ctx.workspace)
        cache, ctx.cache = ctx.cache, None  # used up here
        d_embeddings = None
        if by_lse is not None:
            d_embeddings = by_lse * d_lse[:, None]
            if own.ndim == 2:
                d_embeddings.addcmul_(own, d_true[:, None])
            else:
                d_embeddings.add_(torch.einsum("bld,bl->bd", own, d_true))
            if by_total is not None:
                d_embeddings.addcmul_(by_total, d_total[:, None])
        weight_pass = partial(
            _weight_pass,
            chunks,
            # -inf over no class: nothing flows there, and -inf - -inf is not a number.
            (
                lse.clamp_min(torch.finfo(lse.dtype).min),
                d_lse,
                d_total if options.need_total else None,
                d_true,
            ),
            d_length,
            ctx.modulation,
            inverse,
            cache,
        )
        d_weight = None
        if update is not None:
            update.defer(weight_pass)
        elif ctx.needs_input_grad[1]:
            d_weight = torch.empty_like(weight)
            weight_pass(d_weight)
        return d_embeddings, d_weight, None, None, None, None, None, None


class _RowSlopes:
    """Derivatives of lse, total and the true logit by the rows, summed chunk by chunk.

    `own` (B, D), or (B, L, D), is that of the true logits.
    """

    def __init__(self, chunks: Chunks, modulation: LogitModulation | None, own: Tensor) -> None:
        self.chunks, self.modulation, self.own = chunks, modulation, own
        self.by_lse = torch.zeros_like(chunks.embeddings)  # times mass
        # The derivative of the total is the same for all rows, but for the true class, where a
        # class has one weight and its logit stays as it is.
        self.alike = modulation is None and chunks.centres == 1
        self.by_total = None
        if chunks.options.need_total:
            self.by_total = torch.zeros_like(
                chunks.embeddings[:1] if self.alike else chunks.embeddings
            )

    def add(
        self, sums: RowSums, span: slice, z: Tensor, operand: Tensor, inverse: Tensor | None
    ) -> None:
        """Add a chunk of logits z (B, n * centres), overwritten, to sums and derivatives.

        `operand` (n * centres, D) are its rows of the weight in the dtype of the products, and
        `inverse` (n * centres,) their factors.
        """
        chunks, modulation, k = self.chunks, self.modulation, self.chunks.centres
        column, nearest = chunks.column(span), None
        if k > 1:
            z, nearest = z.view(len(z), -1, k).max(2)  # (B, n) each
        if self.by_total is not None:
            slope = torch.ones_like(z[:1]) if self.alike else torch.ones_like(z)
            if modulation is not None:
                slope = modulation.slope(z)
            if not self.alike:
                put_in_column(slope, column, 0)
            if nearest is not None:
                slope = _spread(slope, nearest, k)
            if inverse is not None:
                slope.mul_(inverse)
            _add_product(chunks, self.by_total, slope.to(chunks.dtype), operand)
        add_shares = softmax_kernels(z).add_shares
        if nearest is None:
            out = chunks.buffer("d_z", z.shape, chunks.dtype) if chunks.narrow else z
            shrink = add_shares(sums, z, column, modulation, out, inverse=inverse)
        else:
            shrink = add_shares(sums, z, column, modulation, z)
            out = _spread(z, nearest, k)
            if inverse is not None:
                out.mul_(inverse)
            out = out.to(chunks.dtype)
        self.by_lse.mul_(shrink[:, None])
        _add_product(chunks, self.by_lse, out, operand)

    def result(self, sums: RowSums) -> tuple[Tensor, Tensor | None, Tensor]:
        """The derivatives (B, D) of lse, total (None where it is not needed) and true."""
        # A mass is 0 over no class, else 1 or more: the peak is in it.
        self.by_lse.div_(sums.mass.clamp_min(1)[:, None])
        if self.by_total is not None and self.alike:
            self.by_total = self.by_total - (self.own if self.own.ndim == 2 else self.own.sum(1))
        return self.by_lse, self.by_total, self.own


def _weight_pass(
    chunks: Chunks,
    of_rows: tuple[Tensor, Tensor, Tensor | None, Tensor],  # lse, d_lse, d_total, d_true
    d_length: Tensor,
    modulation: LogitModulation | None,
    inverse: Tensor | None,
    cache: LogitCache | None,
    d_weight: Tensor | None = None,
) -> None:
    """The gradient of the weight, chunk by chunk, to `d_weight` or to the update."""
    for span in chunks.spans():
        place = chunks.where(span)
        stored = chunks.take(place)
        z = None if cache is None else cache.take(span)
        if z is None:
            z = chunks.products(chunks.operand(stored))
        own = sums = None
        if inverse is not None:
            own = inverse[chunks.row_span(span)]
            sums = chunks.buffer("along", own.shape, chunks.embeddings.dtype)
        d_z = _product_gradient(chunks, span, z, of_rows, modulation, inverse=own, along=sums)
        along = _along(chunks, span, sums, own, d_length, stored)
        if d_weight is not None:
            _weight_gradient(chunks, d_z, stored, along, d_weight[place])
            continue
        assert chunks.update is not None
        gradient = _weight_gradient(chunks, d_z, stored, along, None)
        chunks.update.use(chunks.weight, place, gradient)
    if cache is not None:
        cache.give_back()


def _product_gradient(
    chunks: Chunks,
    span: slice,
    z: Tensor,
    of_rows: tuple[Tensor, Tensor, Tensor | None, Tensor],
    modulation: LogitModulation | None,
    *,
    inverse: Tensor | None,
    along: Tensor | None,
) -> Tensor:
    """The gradient by the products z (B, n * centres), in their dtype; see `logit_gradient`."""
    logit_gradient = softmax_kernels(z).logit_gradient
    column, k = chunks.column(span), chunks.centres
    if k == 1:
        out = chunks.buffer("d_z", z.shape, chunks.dtype)
        d_z: Tensor = logit_gradient(
            z, *of_rows, column, modulation, out, inverse=inverse, along=along
        )
        return d_z
    if inverse is not None:
        z.mul_(inverse)
    full = z.view(len(z), -1, k)
    highest, nearest = full.max(2)  # (B, n) each
    out = chunks.buffer("d_z", highest.shape, z.dtype)
    spread = _spread(logit_gradient(highest, *of_rows, column, modulation, out), nearest, k)
    if along is not None:
        torch.sum(z.mul_(spread), 0, out=along)
    if inverse is not None:
        spread.mul_(inverse)
    return spread.to(chunks.dtype)


def _spread(of_classes: Tensor, nearest: Tensor, centres: int) -> Tensor:
    """Numbers (B, n) of classes put at their nearest centres (B, n), else 0: (B, n * centres)."""
    full = of_classes.new_zeros(*of_classes.shape, centres)
    return full.scatter_(2, nearest[..., None], of_classes[..., None]).flatten(1)


def _along(
    chunks: Chunks,
    span: slice,
    sums: Tensor | None,
    inverse: Tensor | None,
    d_length: Tensor,
    stored: Tensor,
) -> Tensor | None:
    """The factor of each row of the weight in its own gradient, (n * centres,).

    With u = w / |w| and z = x . u the gradient of w is

        (sum_i dz_i rows_i - (sum_i dz_i z_i) u) / |w|

    and this is the factor of w in its second term; `sums` (n * centres,) is sum_i dz_i z_i, and
    overwritten. Where the classes are not normalised, it is the gradient of their length.
    """
    if inverse is not None and sums is not None:
        return sums.mul_(inverse).mul_(inverse).neg_()
    if not chunks.options.need_length:
        return None
    column = chunks.column(span)
    if column is None:
        return None
    inside = (column >= 0) & (column < len(stored))
    index = column.clamp(0, len(stored) - 1)
    factor = d_length.new_zeros(len(stored))
    factor.index_add_(0, index.flatten(), d_length.where(inside, 0).flatten())
    return factor.mul_(inverse_norms(stored, torch.empty_like(factor)))


def _weight_gradient(
    chunks: Chunks, d_z: Tensor, stored: Tensor, along: Tensor | None, out: Tensor | None
) -> Tensor:
    """(n * centres, D), of the dtype of the embeddings."""
    if chunks.narrow or stored.dtype != chunks.embeddings.dtype:
        gradient = chunks.product("gradient", d_z.t(), chunks.embeddings_in)
        if along is not None:
            gradient.addcmul_(stored.to(gradient.dtype), along[:, None])
        return gradient if out is None else out.copy_(gradient)
    if out is None:
        out = chunks.buffer("gradient", stored.shape, chunks.embeddings.dtype)
    if along is None:
        return torch.mm(d_z.t(), chunks.embeddings, out=out)
    return torch.mul(stored, along[:, None], out=out).addmm_(d_z.t(), chunks.embeddings)


def _add_product(chunks: Chunks, d_embeddings: Tensor, d_z: Tensor, operand: Tensor) -> None:
    if chunks.narrow:
        d_embeddings.add_(chunks.product("d_embeddings", d_z, operand))
    else:
        d_embeddings.addmm_(d_z, operand)


def _true_logits(chunks: Chunks) -> tuple[Tensor, Tensor, Tensor]:
    """Logit of each row's classes, length of their weights, and derivative of the logit by the row.

    (B,), (B,) and (B, D), or (B, L), (B, L) and (B, L, D); 0 where a class is not held. Never in a
    narrow dtype: the margin's slope is steep where the cosine is near 1.
    """
    embeddings, k, count, shape = (
        chunks.embeddings, chunks.centres, chunks.count, chunks.classes.shape
    )  # fmt: skip
    if count == 0:
        none = embeddings.new_zeros(shape)
        return none, none.clone(), embeddings.new_zeros(*shape, embeddings.shape[1])
    classes = chunks.classes.flatten()
    if len(shape) == 2:
        embeddings = embeddings.repeat_interleave(shape[1], 0)  # (B * L, D)
    inside = (classes >= 0) & (classes < count)
    own = classes.clamp(0, count - 1)
    if chunks.index is not None:
        own = chunks.index[own]
    target = chunks.read(rows_of(own, k)).to(embeddings.dtype)  # (B * centres, D)
    inverse = inverse_norms(target, embeddings.new_empty(len(target))).view(-1, k)  # (B, centres)
    length = torch.linalg.vector_norm(target, dim=1).view(-1, k)
    target = target.view(len(embeddings), k, -1)
    true = (embeddings[:, None] * target).sum(2)  # (B, centres)
    if chunks.options.normalize:
        true = true * inverse
    best = true.argmax(1, keepdim=True)
    true, length, inverse = (each.gather(1, best)[:, 0] for each in (true, length, inverse))
    target = target[torch.arange(len(embeddings), device=embeddings.device), best[:, 0]]  # (B, D)
    factor = inverse if chunks.options.normalize else torch.ones_like(inverse)
    target = target * factor.where(inside, 0)[:, None]
    true, length = true.where(inside, 0), length.where(inside, 0)
    return true.view(shape), length.view(shape), target.view(*shape, -1)
