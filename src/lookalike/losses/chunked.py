"""Softmax statistics over many classes without the matrix of logits.

`class_statistics` walks over the classes in chunks that fit the cache. The forward pass keeps an
online log-sum-exp per row; the backward pass computes each chunk of logits again, which costs
less than writing and reading them. There is no B x C tensor, no one-hot matrix and no normalised
copy of the weight, and with an `Update` no gradient of the weight either.

The true class is masked inside its chunk, and its logit is made elsewhere. Correcting a finished
log-sum-exp instead is numerically wrong: at scale 64, margin 0.35 and a cosine of 0.7 it gives
-inf in float32 where the loss is 0.0618.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lookalike.losses.directions import inverse_norms
from lookalike.losses.epilogue import LogitBend, RowSums
from lookalike.losses.kernels import epilogues

_CPU_CHUNK = 2048  # x B=128 floats = 1 MB: a chunk of logits stays in the L2 cache
_GPU_CHUNK_BYTES = 64 * 2**20  # large enough to fill the device, small next to the weight


class Update(Protocol):
    """Changes rows of the weight as soon as their gradient is there."""

    def use(self, weight: Tensor, where: slice | Tensor, gradient: Tensor) -> None:
        """Use the gradient (n, D) of the rows `where`; it may be overwritten."""


@dataclass(frozen=True)
class Walk:
    """How to walk over the classes.

    Attributes:
        normalize: whether the classes count by their direction only.
        need_total: whether the sum of the logits is wanted (label smoothing).
        centres: rows of the weight a class; the highest logit of them is the class's.
        chunk: classes at once; None for a default by device.
        precision: dtype of the products; None for that of the embeddings. Sums are never in less
            than float32.
        need_length: whether the gradient of the classes' lengths is wanted.
        stash: bytes of products that may wait for the backward pass instead of being made again.
    """

    normalize: bool
    need_total: bool = False
    centres: int = 1
    chunk: int | None = None
    precision: torch.dtype | None = None
    need_length: bool = False
    stash: int = 0


class Statistics(NamedTuple):
    """What a softmax needs to know; see `class_statistics`. Each is (B,)."""

    lse: Tensor
    total: Tensor
    true: Tensor
    length: Tensor


def default_chunk(rows: int, weight: Tensor) -> int:
    """How many rows of `weight` to take at once for a batch of `rows`, by its device."""
    if weight.device.type == "cpu":
        return _CPU_CHUNK
    return max(1024, _GPU_CHUNK_BYTES // (max(rows, 1) * 4))


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
        update: takes the weight's gradient chunk by chunk in the backward pass, and changes the
            weight in place; the weight then gets no `grad`.
        workspace: keeps the buffers of the chunks for the next call.
    """
    if index is not None and update is None:
        raise ValueError("a sample of the classes needs an update that knows of it")
    space = {} if workspace is None else workspace
    return Statistics(
        *_ClassStatistics.apply(rows, weight, classes, walk, index, bend, update, space)
    )


class _Chunks:
    """The products of one batch with the weight, chunk by chunk, each result in one buffer."""

    def __init__(
        self,
        rows: Tensor,
        weight: Tensor,
        classes: Tensor,
        walk: Walk,
        index: Tensor | None,
        workspace: dict[str, Tensor],
    ) -> None:
        self.rows, self.weight, self.classes, self.walk = rows, weight, classes, walk
        self.index = index
        self.count = len(weight) // walk.centres if index is None else len(index)
        size = walk.chunk or max(1, default_chunk(len(rows), weight) // walk.centres)
        self.size = max(1, min(size, self.count))
        self.dtype = walk.precision or rows.dtype
        self.narrow = self.dtype != rows.dtype
        self.direct = rows.device.type == "cuda"  # narrow products with wide results
        self.rows_in = rows.to(self.dtype)
        self.workspace = workspace

    def spans(self) -> Iterator[slice]:
        """Classes, or positions in `index`, of each chunk."""
        for start in range(0, self.count, self.size):
            yield slice(start, min(start + self.size, self.count))

    def row_span(self, span: slice) -> slice:
        """The rows of the weight (or of the sample of it) that belong to a span of classes."""
        return slice(span.start * self.walk.centres, span.stop * self.walk.centres)

    def where(self, span: slice) -> slice | Tensor:
        """The rows of the weight in a span, for an update."""
        if self.index is None:
            return self.row_span(span)
        own, k = self.index[span], self.walk.centres
        return own if k == 1 else (own[:, None] * k + torch.arange(k, device=own.device)).flatten()

    def stored(self, span: slice) -> Tensor:
        """The weight of a span as it is stored, (n * centres, D)."""
        where = self.where(span)
        if isinstance(where, slice):
            return self.weight[where]
        out = self.buffer("stored", (len(where), self.weight.shape[1]), self.weight.dtype)
        return torch.index_select(self.weight, 0, where, out=out)

    def operand(self, stored: Tensor) -> Tensor:
        """The same in the dtype of the products."""
        if stored.dtype == self.dtype:
            return stored
        return self.buffer("operand", stored.shape, self.dtype).copy_(stored)

    def buffer(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A block of the buffer called `name`, which grows with the largest chunk so far."""
        count, held = math.prod(shape), self.workspace.get(name)
        if (
            held is None
            or len(held) < count
            or (held.dtype, held.device) != (dtype, self.rows.device)
        ):
            held = self.workspace[name] = self.rows.new_empty(count, dtype=dtype)
        return held[:count].view(*shape)

    def product(self, name: str, left: Tensor, right: Tensor) -> Tensor:
        """`left @ right`, both in the dtype of the products, as wide as the embeddings."""
        shape = (len(left), right.shape[1])
        out = self.buffer(name, shape, self.rows.dtype)
        if not self.narrow:
            return torch.mm(left, right, out=out)
        if self.direct:
            return torch.mm(left, right, out_dtype=out.dtype, out=out)
        narrow = self.buffer(f"narrow {name}", shape, self.dtype)
        return out.copy_(torch.mm(left, right, out=narrow))

    def products(self, operand: Tensor) -> Tensor:
        """Of the batch and rows of the weight, (B, n * centres)."""
        return self.product("products", self.rows_in, operand.t())

    def column(self, span: slice) -> Tensor:
        """(B,) column of the true class within a span; outside it where it is elsewhere."""
        return self.classes - span.start


class _Stash:
    """The products of the first chunks, as many as a budget allows.

    To make a product again costs D multiplications; to keep it costs memory. Where
    memory traffic is cheap next to arithmetic, as on a CPU, a few per cent of the weight's bytes
    save a part of the products.
    """

    def __init__(self, chunks: _Chunks, budget: int) -> None:
        rows, self.centres = chunks.rows, chunks.walk.centres
        self.workspace, self.batch = chunks.workspace, len(rows)
        room = budget // max(1, self.batch * self.centres * rows.element_size())
        # Whole chunks only.
        self.classes = min(room // chunks.size * chunks.size, chunks.count)
        size = self.classes * self.centres * self.batch
        # Taken out of the workspace: another forward pass may come before our backward pass.
        held = self.workspace.pop("stash", None)
        if held is None or len(held) < size or held.dtype != rows.dtype:
            held = rows.new_empty(size)
        self.held = held

    def keep(self, span: slice, z: Tensor) -> None:
        """Remember the products of a chunk if there is room."""
        block = self.take(span)
        if block is not None:
            block.copy_(z)

    def take(self, span: slice) -> Tensor | None:
        """The products (B, n * centres) of a chunk if they were kept; to be used once."""
        if span.stop > self.classes:
            return None
        each = self.batch * self.centres
        return self.held[span.start * each : span.stop * each].view(self.batch, -1)

    def give_back(self) -> None:
        """Leave the memory to the next forward pass."""
        self.workspace["stash"] = self.held


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
        chunks = _Chunks(rows, weight, classes, walk, index, workspace)
        add_chunk, _ = epilogues(rows.device)
        true, length = _true_logits(chunks)
        bend = make_bend(true) if make_bend is not None else None
        inverse = rows.new_empty(chunks.count * walk.centres) if walk.normalize else None
        sums = RowSums.empty(rows, walk.need_total)
        stash = _Stash(chunks, walk.stash if any(ctx.needs_input_grad) else 0)
        for span in chunks.spans():
            stored = chunks.stored(span)
            own = None
            if inverse is not None:
                own = inverse_norms(stored, out=inverse[chunks.row_span(span)])
            z = chunks.products(chunks.operand(stored))
            stash.keep(span, z)
            if own is not None:
                z.mul_(own)
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
        chunks = _Chunks(rows, weight, classes, walk, index, ctx.workspace)
        # -inf over no class: nothing flows there, and -inf - -inf is not a number.
        lse = lse.clamp_min(torch.finfo(lse.dtype).min)
        _, logit_gradient = epilogues(rows.device)
        wanted = update is not None or ctx.needs_input_grad[1]
        d_weight = torch.empty_like(weight) if wanted and update is None else None
        d_rows = torch.zeros_like(rows)
        stash, ctx.stash = ctx.stash, None  # used up here
        for span in chunks.spans():
            stored, own = chunks.stored(span), None
            if inverse is not None:
                own = inverse[chunks.row_span(span)]
            operand, column = chunks.operand(stored), chunks.column(span)
            sums = None
            if wanted and own is not None:
                sums = chunks.buffer("along", own.shape, rows.dtype)
            dense = walk.centres == 1
            z = stash.take(span) if stash is not None else None
            if z is None:
                z = chunks.products(operand)
            d_all = d_total if walk.need_total else None
            if dense:
                d_z = logit_gradient(
                    z, lse, d_lse, d_all, d_true, column, ctx.bend,
                    chunks.buffer("d_z", z.shape, chunks.dtype), inverse=own, along=sums,
                )  # fmt: skip
            else:
                if own is not None:
                    z.mul_(own)
                full = z.view(len(rows), span.stop - span.start, walk.centres)
                z, nearest = full.max(2)
                d_z = logit_gradient(
                    z, lse, d_lse, d_all, d_true, column, ctx.bend,
                    chunks.buffer("d_z", z.shape, z.dtype),
                )  # fmt: skip
                d_z = torch.zeros_like(full).scatter_(2, nearest[..., None], d_z[..., None])
                d_z, z = d_z.flatten(1), full.flatten(1)
                if sums is not None:
                    torch.sum(z.mul_(d_z), 0, out=sums)
                if own is not None:
                    d_z.mul_(own)
                d_z = d_z.to(chunks.dtype)
            along = _along(chunks, span, sums, own, d_length, stored) if wanted else None
            if wanted:
                place = chunks.where(span)
                out = d_weight[place] if d_weight is not None else None
                gradient = _weight_gradient(chunks, d_z, stored, along, out)
                if update is not None:
                    # Before the weight changes: the embeddings' gradient needs it as it was.
                    _add_product(chunks, d_rows, d_z, operand)
                    update.use(weight, place, gradient)
                    continue
            _add_product(chunks, d_rows, d_z, operand)
        if stash is not None:
            stash.give_back()
        return d_rows, d_weight, None, None, None, None, None, None


def _along(
    chunks: _Chunks,
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
    inside = (column >= 0) & (column < len(stored))
    index = column.clamp(0, len(stored) - 1)
    factor = d_length.new_zeros(len(stored)).index_add_(0, index, d_length.where(inside, 0))
    return factor.mul_(inverse_norms(stored, torch.empty_like(factor)))


def _weight_gradient(
    chunks: _Chunks, d_z: Tensor, stored: Tensor, along: Tensor | None, out: Tensor | None
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


def _add_product(chunks: _Chunks, d_rows: Tensor, d_z: Tensor, operand: Tensor) -> None:
    if chunks.narrow:
        d_rows.add_(chunks.product("d_rows", d_z, operand))
    else:
        d_rows.addmm_(d_z, operand)


def _true_logits(chunks: _Chunks) -> tuple[Tensor, Tensor]:
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
    places = own[:, None] * k + torch.arange(k, device=own.device)  # (B, centres)
    target = chunks.weight[places.flatten()].to(rows.dtype)  # (B * centres, D)
    inverse = inverse_norms(target, rows.new_empty(len(target))).view(-1, k)  # (B, centres)
    length = torch.linalg.vector_norm(target, dim=1).view(-1, k)
    true = (rows[:, None] * target.view(len(rows), k, -1)).sum(2)  # (B, centres)
    if walk.normalize:
        true = true * inverse
    best = true.argmax(1, keepdim=True)
    true, length = true.gather(1, best)[:, 0], length.gather(1, best)[:, 0]
    return true.where(inside, 0), length.where(inside, 0)
