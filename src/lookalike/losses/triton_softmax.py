"""The functions of `lookalike.losses.chunk_softmax` as Triton kernels: each chunk is read once.

Same signatures, float32 only. No atomics, and programs are divided by the shape of a chunk alone:
the same inputs give the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lookalike.losses.chunk_softmax import LogitModulation, RowSums

_PROGRAMS = 1024  # enough to fill any device at hand: some 8 for each of an H100's 132 processors
_COLUMNS = 1024  # of a row at once, in add_chunk
_TILE = (16, 128)  # rows, columns at once, in logit_gradient: each warp reads 512 adjacent bytes
_LOWEST = tl.constexpr(torch.finfo(torch.float32).min)


def add_chunk(
    sums: RowSums, z: Tensor, column: Tensor | None, modulation: LogitModulation | None
) -> Tensor:
    """As `lookalike.losses.chunk_softmax.add_chunk`, but `z` (float32, contiguous rows) is kept.

    A program goes along a part of a row. With many rows a part is the whole row, and the program
    adds to the sums itself; with few a second kernel adds up the parts in a fixed order.
    """
    _check(z)
    rows, n = z.shape
    if rows == 0 or n == 0:
        return torch.ones_like(sums.peak)
    before = sums.peak.clone()
    parts = min(triton.cdiv(_PROGRAMS, rows), triton.cdiv(n, _COLUMNS))
    span = triton.cdiv(triton.cdiv(n, parts), _COLUMNS) * _COLUMNS
    parts = triton.cdiv(n, span)
    results = (sums.peak, sums.mass, sums.peak if sums.total is None else sums.total)
    kept = results if parts == 1 else tuple(z.new_empty(rows, parts) for _ in results)
    columns = _columns(column, z)
    with torch.cuda.device_of(z):
        _add_parts[(rows, parts)](
            z, columns, *_modulation_arguments(modulation, z), *kept,
            n, z.stride(0), span, parts, LABELS=columns.shape[1],
            MODULATE=modulation is not None, TOTAL=sums.total is not None, ALONE=parts == 1,
            BLOCK=_COLUMNS, num_warps=4,
        )  # fmt: skip
        if parts > 1:
            _fold_parts[(rows,)](
                *kept, *results, parts, TOTAL=sums.total is not None,
                BLOCK=triton.next_power_of_2(parts), num_warps=1,
            )  # fmt: skip
    return before.sub_(sums.peak).exp_()


def add_shares(
    sums: RowSums,
    z: Tensor,
    column: Tensor | None,
    modulation: LogitModulation | None,
    out: Tensor,
    *,
    inverse: Tensor | None = None,
) -> Tensor:
    """As `lookalike.losses.chunk_softmax.add_shares`, but `z` is kept where it is not `out`."""
    shrink = add_chunk(sums, z, column, modulation)
    ones = torch.ones_like(sums.peak)
    _launch_gradient(
        z, sums.peak, ones, None, torch.zeros_like(ones), column, modulation, out, inverse, None,
        scaled=True,
    )  # fmt: skip
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
    """As `lookalike.losses.chunk_softmax.logit_gradient`, but `z` is kept.

    A program owns a block of columns and goes down the rows, so that it can add up along them.
    Where the chunk has few columns and many rows, the rows are divided among several programs,
    and their sums are added in a fixed order.
    """
    _launch_gradient(
        z, lse, d_lse, d_total, d_true, column, modulation, out, inverse, along, scaled=False
    )
    return out


def _launch_gradient(
    z: Tensor,
    lse: Tensor,
    d_lse: Tensor,
    d_total: Tensor | None,
    d_true: Tensor,
    column: Tensor | None,
    modulation: LogitModulation | None,
    out: Tensor,
    inverse: Tensor | None,
    along: Tensor | None,
    *,
    scaled: bool,
) -> None:
    """`logit_gradient`; with `scaled`, `z` has been multiplied by `inverse` already."""
    _check(z)
    if out.stride(1) != 1 and out.shape[1] > 1:
        raise TypeError("the rows of the gradient have to be contiguous")
    rows, n = z.shape
    if rows == 0 or n == 0:
        if along is not None:
            along.zero_()
        return
    high, wide = _TILE
    blocks = triton.cdiv(n, wide)
    parts = min(triton.cdiv(_PROGRAMS, blocks), triton.cdiv(rows, high))
    span = triton.cdiv(triton.cdiv(rows, parts), high) * high
    parts = triton.cdiv(rows, span)
    kept = along
    if along is not None and parts > 1:
        kept = z.new_empty(parts, n)
    columns = _columns(column, z)
    # Of another shape where all are 0, or no true class is in this chunk.
    d_true = d_true.view(rows, -1)[:, : columns.shape[1]].expand_as(columns)
    with torch.cuda.device_of(z):
        _gradient[(blocks, parts)](
            z, *_dense(lse, d_lse, d_lse if d_total is None else d_total, d_true),
            columns, *_modulation_arguments(modulation, z),
            z if inverse is None else inverse.contiguous(), out, z if kept is None else kept,
            rows, n, z.stride(0), out.stride(0), span, LABELS=columns.shape[1],
            MODULATE=modulation is not None, TOTAL=d_total is not None, INVERSE=inverse is not None,
            SCALED=scaled, ALONG=along is not None, HIGH=high, WIDE=wide, num_warps=4,
        )  # fmt: skip
    if along is not None and kept is not None and parts > 1:
        torch.sum(kept, 0, out=along)


def _check(z: Tensor) -> None:
    if z.dtype != torch.float32:
        raise TypeError(f"these kernels are for float32, not {z.dtype}")
    if z.stride(1) != 1 and z.shape[1] > 1:
        raise TypeError("the rows of the logits have to be contiguous")


def _columns(column: Tensor | None, z: Tensor) -> Tensor:
    """The columns of each row's true classes, (B, L); -1 in none of them."""
    if column is None:
        return z.new_full((len(z), 1), -1, dtype=torch.int64)
    return column.view(len(z), -1).contiguous()


def _dense(*vectors: Tensor) -> tuple[Tensor, ...]:
    # Autograd's gradients may be views with any stride.
    return tuple(vector.contiguous() for vector in vectors)


def _modulation_arguments(modulation: LogitModulation | None, unused: Tensor) -> tuple[Tensor, ...]:
    if modulation is None:
        return (unused,) * 4
    return _dense(modulation.above, modulation.linear, modulation.square, modulation.limit)


@triton.jit
def _add_parts(
    z_ptr, column_ptr, above_ptr, linear_ptr, square_ptr, limit_ptr,
    peak_ptr, mass_ptr, total_ptr, n, stride, span, parts, LABELS: tl.constexpr,
    MODULATE: tl.constexpr, TOTAL: tl.constexpr, ALONE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    part = tl.program_id(1)
    begin = part * span
    end = tl.minimum(begin + span, n)
    target = tl.load(column_ptr + row * LABELS)
    z_row = z_ptr + row.to(tl.int64) * stride
    if MODULATE:
        above = tl.load(above_ptr + row)
        linear = tl.load(linear_ptr + row)
        square = tl.load(square_ptr + row)
        limit = tl.load(limit_ptr + row)
    # Each lane keeps sums of its own: one exp for each logit, and one reduction at the end. The
    # peak starts at the lowest number, because -inf - -inf is not a number.
    peaks = tl.full((BLOCK,), _LOWEST, tl.float32)
    masses = tl.zeros((BLOCK,), tl.float32)
    totals = tl.zeros((BLOCK,), tl.float32)
    for first in range(begin, end, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        inside = columns < end
        z = tl.load(z_row + columns, mask=inside, other=0.0)
        if MODULATE:
            gone = z > limit
            z = tl.where(z > above, z * (linear + square * z), z)
            z = tl.where(gone, float("-inf"), z)
        counted = inside & (columns != target)
        for further in tl.static_range(1, LABELS):
            counted &= columns != tl.load(column_ptr + row * LABELS + further)
        if TOTAL:
            totals += tl.where(counted, z, 0.0)
        z = tl.where(counted, z, float("-inf"))
        smaller = tl.exp(-tl.abs(z - peaks))
        masses = tl.where(z > peaks, masses * smaller + 1.0, masses + smaller)
        peaks = tl.maximum(peaks, z)
    peak = tl.max(peaks, 0)
    mass = tl.sum(masses * tl.exp(peaks - peak), 0)
    if ALONE:
        before = tl.load(peak_ptr + row)
        higher = tl.maximum(before, peak)
        kept = tl.load(mass_ptr + row) * tl.exp(before - higher)
        tl.store(mass_ptr + row, kept + mass * tl.exp(peak - higher))
        tl.store(peak_ptr + row, higher)
        if TOTAL:
            tl.store(total_ptr + row, tl.load(total_ptr + row) + tl.sum(totals, 0))
    else:
        place = row.to(tl.int64) * parts + part
        tl.store(peak_ptr + place, peak)
        tl.store(mass_ptr + place, mass)
        if TOTAL:
            tl.store(total_ptr + place, tl.sum(totals, 0))


@triton.jit
def _fold_parts(
    peaks_ptr, masses_ptr, totals_ptr, peak_ptr, mass_ptr, total_ptr, parts,
    TOTAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    part = tl.arange(0, BLOCK)
    inside = part < parts
    place = row.to(tl.int64) * parts + part
    peaks = tl.load(peaks_ptr + place, mask=inside, other=_LOWEST)
    masses = tl.load(masses_ptr + place, mask=inside, other=0.0)
    before = tl.load(peak_ptr + row)
    higher = tl.maximum(before, tl.max(peaks, 0))
    kept = tl.load(mass_ptr + row) * tl.exp(before - higher)
    tl.store(mass_ptr + row, kept + tl.sum(masses * tl.exp(peaks - higher), 0))
    tl.store(peak_ptr + row, higher)
    if TOTAL:
        totals = tl.load(totals_ptr + place, mask=inside, other=0.0)
        tl.store(total_ptr + row, tl.load(total_ptr + row) + tl.sum(totals, 0))


@triton.jit
def _gradient(
    z_ptr, lse_ptr, d_lse_ptr, d_total_ptr, d_true_ptr, column_ptr,
    above_ptr, linear_ptr, square_ptr, limit_ptr, inverse_ptr, out_ptr,
    along_ptr, rows, n, z_stride, out_stride, span, LABELS: tl.constexpr,
    MODULATE: tl.constexpr, TOTAL: tl.constexpr, INVERSE: tl.constexpr, SCALED: tl.constexpr,
    ALONG: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    columns = tl.program_id(0) * WIDE + tl.arange(0, WIDE)
    part = tl.program_id(1)
    in_columns = columns < n
    begin = part * span
    end = tl.minimum(begin + span, rows)
    if INVERSE:
        inverse = tl.load(inverse_ptr + columns, mask=in_columns, other=0.0)[None, :]
    along = tl.zeros((HIGH, WIDE), tl.float32)
    for first in range(begin, end, HIGH):
        row = first + tl.arange(0, HIGH)
        in_rows = row < end
        inside = in_rows[:, None] & in_columns[None, :]
        place = row.to(tl.int64)[:, None] * z_stride + columns[None, :]
        z = tl.load(z_ptr + place, mask=inside, other=0.0)
        if INVERSE and not SCALED:
            z *= inverse
        lse = tl.load(lse_ptr + row, mask=in_rows, other=0.0)[:, None]
        d_lse = tl.load(d_lse_ptr + row, mask=in_rows, other=0.0)[:, None]
        d_true = tl.load(d_true_ptr + row * LABELS, mask=in_rows, other=0.0)[:, None]
        target = tl.load(column_ptr + row * LABELS, mask=in_rows, other=-1)[:, None]
        changed = z
        if MODULATE:
            above = tl.load(above_ptr + row, mask=in_rows, other=0.0)[:, None]
            linear = tl.load(linear_ptr + row, mask=in_rows, other=0.0)[:, None]
            square = tl.load(square_ptr + row, mask=in_rows, other=0.0)[:, None]
            limit = tl.load(limit_ptr + row, mask=in_rows, other=0.0)[:, None]
            gone = z > limit
            changed = tl.where(z > above, z * (linear + square * z), z)
            changed = tl.where(gone, float("-inf"), changed)
        # Where a true class is, exp could be infinite.
        counted = inside & (columns[None, :] != target)
        for further in tl.static_range(1, LABELS):
            also = tl.load(column_ptr + row * LABELS + further, mask=in_rows, other=-1)[:, None]
            counted &= columns[None, :] != also
        d_z = tl.exp(tl.where(counted, changed - lse, float("-inf"))) * d_lse
        if TOTAL:
            d_z += tl.load(d_total_ptr + row, mask=in_rows, other=0.0)[:, None]
        if MODULATE:
            d_z = tl.where(z > above, d_z * (linear + 2.0 * square * z), d_z)
            d_z = tl.where(gone, 0.0, d_z)
        d_z = tl.where(columns[None, :] == target, d_true, d_z)
        for further in tl.static_range(1, LABELS):
            at = row * LABELS + further
            also = tl.load(column_ptr + at, mask=in_rows, other=-1)[:, None]
            d_also = tl.load(d_true_ptr + at, mask=in_rows, other=0.0)[:, None]
            d_z = tl.where(columns[None, :] == also, d_also, d_z)
        if ALONG:
            along += tl.where(inside, d_z * z, 0.0)
        if INVERSE:
            d_z *= inverse
        place = row.to(tl.int64)[:, None] * out_stride + columns[None, :]
        tl.store(out_ptr + place, d_z.to(out_ptr.dtype.element_ty), mask=inside)
    if ALONG:
        place = part.to(tl.int64) * n + columns
        tl.store(along_ptr + place, tl.sum(along, 0), mask=in_columns)
