"""One step of an optimizer on some rows of the class weights, as one Triton kernel.

Weight and state are read and written in place, without copies, by a range of rows or by their
numbers. Those in bfloat16 are rounded stochastically (see `stochastic_rounding`), with random bits
from Philox (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011), which depend on
seed, step, row and column alone: not on chunks or on earlier draws.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_COLUMNS = 256  # of a row at most in a program
_ELEMENTS = 2048  # of a program


def sgd_rows(
    weight: Tensor,
    momentum_buffer: Tensor,
    gradient: Tensor,
    where: slice | Tensor,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    unscale: float,
    seed: int,
    step: int,
) -> None:
    """SGD with momentum, as torch.optim.SGD; without momentum the buffer is left alone.

    Weight and buffer (C, D), both float32 or both bfloat16, change in place. The gradient (n, D)
    float32 is multiplied by `unscale` first. `where` is a range of rows, or (n,) int64, each at
    most once. `seed` (63 bits) and `step` are those of the rounding.

    Raises:
        TypeError: other dtypes, or rows that are not contiguous.
    """
    grid, shape = _plan([weight, momentum_buffer], gradient, where)
    if gradient.numel() == 0:
        return
    with torch.cuda.device_of(weight):
        _sgd[grid](
            weight, momentum_buffer, gradient, *_place(where, gradient), *gradient.shape,
            seed, step, lr, momentum, weight_decay, unscale, MOMENTUM=momentum != 0,
            INDEXED=isinstance(where, Tensor), ROUND=weight.dtype == torch.bfloat16,
            HIGH=shape[0], WIDE=shape[1], num_warps=4,
        )  # fmt: skip
    torch.autograd.graph.increment_version([weight, momentum_buffer])


def adamw_rows(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    gradient: Tensor,
    where: slice | Tensor,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    unscale: float,
    seed: int,
    step: int,
) -> None:
    """AdamW, as torch.optim.AdamW; arguments as in `sgd_rows`, `step` steps done before."""
    grid, shape = _plan([weight, exp_avg, exp_avg_sq], gradient, where)
    if gradient.numel() == 0:
        return
    beta1, beta2 = betas
    # In double precision here, where it costs nothing: 1 - beta2 is 0.001 with 4 digits in float32.
    pace = lr / (1 - beta1 ** (step + 1))
    root = (1 - beta2 ** (step + 1)) ** 0.5
    with torch.cuda.device_of(weight):
        _adamw[grid](
            weight, exp_avg, exp_avg_sq, gradient, *_place(where, gradient), *gradient.shape,
            seed, step, 1 - lr * weight_decay, pace, 1 / root, 1 - beta1, beta2, 1 - beta2, eps,
            unscale, INDEXED=isinstance(where, Tensor), ROUND=weight.dtype == torch.bfloat16,
            HIGH=shape[0], WIDE=shape[1], num_warps=4,
        )  # fmt: skip
    torch.autograd.graph.increment_version([weight, exp_avg, exp_avg_sq])


def _plan(
    stored: list[Tensor], gradient: Tensor, where: slice | Tensor
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Programs, and the rows and columns of each."""
    for tensor in [*stored, gradient]:
        if not tensor.is_contiguous():
            raise TypeError("weight, state and gradient have to be contiguous")
    dtypes = {tensor.dtype for tensor in stored}
    if gradient.dtype != torch.float32 or dtypes not in ({torch.float32}, {torch.bfloat16}):
        raise TypeError(
            "these kernels take a gradient in float32, and weight and state both in float32 or "
            f"both in bfloat16, not {gradient.dtype} and {sorted(map(str, dtypes))}"
        )
    count = where.stop - where.start if isinstance(where, slice) else len(where)
    if gradient.shape != (count, stored[0].shape[1]):
        raise ValueError(f"a gradient of {tuple(gradient.shape)} is not one of {count} rows")
    wide = min(max(triton.next_power_of_2(gradient.shape[1]), 4), _COLUMNS)
    high = _ELEMENTS // wide
    return (triton.cdiv(count, high), triton.cdiv(gradient.shape[1], wide)), (high, wide)


def _place(where: slice | Tensor, unused: Tensor) -> tuple[Tensor, int]:
    """Numbers of the rows, and the first one where they are a range."""
    return (unused, where.start) if isinstance(where, slice) else (where, 0)


@triton.jit
def _elements(index_ptr, first, count, dim, INDEXED: tl.constexpr, HIGH: tl.constexpr,
              WIDE: tl.constexpr):  # fmt: skip
    """Offsets of this program's elements in the gradient and in the weight, and their rows."""
    local = tl.program_id(0) * HIGH + tl.arange(0, HIGH)
    columns = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    inside = (local < count)[:, None] & (columns < dim)[None, :]
    if INDEXED:
        rows = tl.load(index_ptr + local, mask=local < count, other=0)
    else:
        rows = local.to(tl.int64) + first
    from_gradient = local.to(tl.int64)[:, None] * dim + columns[None, :]
    from_weight = rows[:, None] * dim + columns[None, :]
    return from_gradient, from_weight, inside, rows


@triton.jit
def _random(seed, step, rows, stream: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr):
    """32 random bits of each element; Philox makes those of four columns at once."""
    group = tl.program_id(1) * (WIDE // 4) + tl.arange(0, WIDE // 4)
    nothing = tl.zeros((HIGH, WIDE // 4), tl.uint32)
    a, b, c, d = tl.philox(
        seed,
        group.to(tl.uint32)[None, :] + nothing,
        rows.to(tl.uint32)[:, None] + nothing,
        nothing + step.to(tl.uint32),
        nothing + stream,
    )
    return tl.reshape(tl.join(tl.join(a, b), tl.join(c, d)), (HIGH, WIDE))


@triton.jit
def _store(ptr, place, value, bits, inside, ROUND: tl.constexpr):
    """Write float32 values; to bfloat16 rounded stochastically, with 16 random bits of each.

    A bfloat16 is the upper half of a float32: what is added to the lower half carries into the
    upper one with the right probability.
    """
    if ROUND:
        whole = value.to(tl.uint32, bitcast=True) + bits
        rounded = (whole & 0xFFFF0000).to(tl.float32, bitcast=True)
        # The carry would make a number of one that is none.
        value = tl.where(value == value, rounded, value)
    tl.store(ptr + place, value.to(ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["first", "seed", "step"])
def _sgd(
    weight_ptr, momentum_ptr, gradient_ptr, index_ptr, first, count, dim, seed, step,
    lr, momentum, decay, unscale, MOMENTUM: tl.constexpr, INDEXED: tl.constexpr,
    ROUND: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    source, place, inside, rows = _elements(index_ptr, first, count, dim, INDEXED, HIGH, WIDE)
    weight = tl.load(weight_ptr + place, mask=inside, other=0.0).to(tl.float32)
    change = tl.load(gradient_ptr + source, mask=inside, other=0.0) * unscale + decay * weight
    bits = tl.zeros((HIGH, WIDE), tl.uint32)
    if ROUND:
        bits = _random(seed, step, rows, 0, HIGH, WIDE)
    if MOMENTUM:
        buffer = tl.load(momentum_ptr + place, mask=inside, other=0.0).to(tl.float32)
        change += momentum * buffer
        _store(momentum_ptr, place, change, bits >> 16, inside, ROUND)
    _store(weight_ptr, place, weight - lr * change, bits & 0xFFFF, inside, ROUND)


@triton.jit(do_not_specialize=["first", "seed", "step"])
def _adamw(
    weight_ptr, first_ptr, second_ptr, gradient_ptr, index_ptr, first, count, dim, seed, step,
    keep, pace, inverse_root, gain1, beta2, gain2, eps, unscale, INDEXED: tl.constexpr,
    ROUND: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    source, place, inside, rows = _elements(index_ptr, first, count, dim, INDEXED, HIGH, WIDE)
    gradient = tl.load(gradient_ptr + source, mask=inside, other=0.0) * unscale
    weight = tl.load(weight_ptr + place, mask=inside, other=0.0).to(tl.float32)
    mean = tl.load(first_ptr + place, mask=inside, other=0.0).to(tl.float32)
    square = tl.load(second_ptr + place, mask=inside, other=0.0).to(tl.float32)
    mean += gain1 * (gradient - mean)
    square = beta2 * square + gain2 * gradient * gradient
    weight = keep * weight - pace * mean / (tl.sqrt(square) * inverse_root + eps)
    bits = tl.zeros((HIGH, WIDE), tl.uint32)
    more = bits
    if ROUND:
        bits = _random(seed, step, rows, 0, HIGH, WIDE)
        more = _random(seed, step, rows, 1, HIGH, WIDE)
    _store(weight_ptr, place, weight, bits & 0xFFFF, inside, ROUND)
    _store(first_ptr, place, mean, bits >> 16, inside, ROUND)
    _store(second_ptr, place, square, more & 0xFFFF, inside, ROUND)
