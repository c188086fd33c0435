"""Whether Triton's kernels compute on a device what PyTorch computes.

A compiler between us and the device may fail on a driver or an architecture that nobody has tried,
and a run should not end for that. So the kernels are tried once, on small numbers, before any
device uses them by default.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lookalike.losses import chunk_softmax, triton_epilogue, triton_update
from lookalike.losses.chunk_softmax import LogitBend, RowSums


def fault(device: torch.device) -> str | None:
    """What is wrong with the kernels on `device`, in a line; None if they are right."""
    try:
        with torch.no_grad():
            _try_epilogues(device)
            _try_updates(device)
    # Whatever a compiler, a driver or a comparison has to say.
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    return None


def _try_epilogues(device: torch.device) -> None:
    draw = _Numbers(device)
    z, column = draw(5, 700) * 20, torch.tensor([0, 699, -1, 700, 13], device=device)
    inverse = 1 + draw(700) / 1000
    bend = LogitBend(draw(5), draw(5) / 99 + 1, draw(5) / 999, draw(5) + 50)
    for bent in (None, bend):
        both = [RowSums.empty(z, True) for _ in range(2)]
        for module, sums in zip((chunk_softmax, triton_epilogue), both, strict=True):
            module.add_chunk(sums, z.clone(), column, bent)
        _near(both[1].lse(), both[0].lse())
        shares = [z * inverse for _ in range(2)]
        for module, sums, share in zip((chunk_softmax, triton_epilogue), both, shares, strict=True):
            module.add_shares(sums, share, column, bent, share, inverse=inverse)
        _near(both[1].lse(), both[0].lse())
        _near(shares[1], shares[0])
        gradients = []
        for module in (chunk_softmax, triton_epilogue):
            out, along = torch.empty_like(z), torch.empty_like(z[0])
            module.logit_gradient(
                z.clone(), both[0].lse(), z[:, 0], None, z[:, 1], column, bent, out,
                inverse=inverse, along=along,
            )  # fmt: skip
            gradients.append((out, along))
        for mine, true in zip(gradients[1], gradients[0], strict=True):
            _near(mine, true)


def _try_updates(device: torch.device) -> None:
    draw = _Numbers(device)
    index = torch.tensor([3, 0], device=device)
    for dtype, error in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        weight, first, gradient = draw(4, 70).to(dtype), draw(4, 70).to(dtype), draw(2, 70)
        second = draw(4, 70).square().to(dtype)
        # SGD, of rows by number: momentum 0.9, weight decay 0.1, learning rate 0.5.
        change = gradient + 0.1 * weight[index].float() + 0.9 * first[index].float()
        stepped, buffer = weight.clone(), first.clone()
        triton_update.sgd_rows(
            stepped, buffer, gradient, index, lr=0.5, momentum=0.9, weight_decay=0.1, unscale=1.0,
            seed=1, step=0,
        )  # fmt: skip
        _near(stepped[index], weight[index].float() - 0.5 * change, error)
        _near(buffer[index], change, error)
        # AdamW's second step, of a range of rows.
        rows = slice(1, 3)
        mean = 0.9 * first[rows].float() + 0.1 * gradient
        square = 0.99 * second[rows].float() + 0.01 * gradient * gradient
        moved = (mean / (1 - 0.9**2)) / ((square / (1 - 0.99**2)).sqrt() + 1e-8)
        stepped, one, two = weight.clone(), first.clone(), second.clone()
        triton_update.adamw_rows(
            stepped, one, two, gradient, rows, lr=0.5, beta1=0.9, beta2=0.99, eps=1e-8,
            weight_decay=0.0, unscale=1.0, seed=1, step=1,
        )  # fmt: skip
        _near(stepped[rows], weight[rows].float() - 0.5 * moved, error)
        _near(one[rows], mean, error)
        _near(two[rows], square, error)


class _Numbers:
    """Normal numbers that are the same on every device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.generator = device, torch.Generator().manual_seed(1)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator).to(self.device)


def _near(mine: Tensor, true: Tensor, error: float = 1e-4) -> None:
    wrong = float((mine.double() - true.double()).norm() / true.double().norm())
    if not wrong <= error:  # NaN is not
        raise ArithmeticError(f"a result differs from PyTorch's by {wrong:.1e}")
