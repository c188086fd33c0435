"""Operations on the gradients of many parameters at once."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def scale_gradients(parameters: Iterable[nn.Parameter], factor: float) -> None:
    """Multiply all gradients, in place."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if grads and factor != 1.0:
        torch._foreach_mul_(grads, factor)


@torch.no_grad()
def squared_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Sum of the squares of all gradients, float32 scalar."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return torch.zeros(())
    norms = torch._foreach_norm(grads)
    return torch.stack([norm.float() for norm in norms]).square().sum()


@torch.no_grad()
def all_finite(tensors: Iterable[Tensor]) -> Tensor:
    """() bool on their device: no floating-point tensor holds NaN or infinity."""
    floats = [each for each in tensors if each.is_floating_point() and each.numel()]
    if not floats:
        return torch.ones((), dtype=torch.bool)
    return (
        torch.stack([norm.float() for norm in torch._foreach_norm(floats, torch.inf)])
        .isfinite()
        .all()
    )
