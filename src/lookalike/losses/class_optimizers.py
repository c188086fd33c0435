"""SGD and AdamW on rows of the class weights."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from lookalike.losses.fused_update import HeadUpdate, UpdateRule


def create_update(rule: UpdateRule, weight: Tensor, *, lazy: bool, seed: int) -> HeadUpdate:
    """State for `weight` (n, D), in its dtype.

    Args:
        rule: which optimizer.
        weight: what will be changed.
        lazy: whether steps see a part of the rows only.
        seed: of the stochastic rounding.
    """
    return (SGDUpdate if rule.name == "sgd" else AdamWUpdate)(rule, weight, lazy, seed)


class SGDUpdate(HeadUpdate):
    """SGD with momentum, as torch.optim.SGD.

    A step without a gradient is linear in the momentum m and the weight w:

        (m, w) <- A (m, w),  A = [[momentum, decay], [-lr momentum, 1 - lr decay]]

    so a row that missed some steps catches up exactly, by the product of their matrices. The
    table holds that product for 0, 1, ... missed steps.
    """

    MOMENTS = ("momentum_buffer",)
    MOVED_BY = 1

    def _step(self, gradient: Tensor, weight: Tensor, *state: Tensor) -> None:
        sgd(
            [weight], [gradient], [state[0]], fused=True, foreach=False,
            weight_decay=self.rule.weight_decay, momentum=self.rule.momentum, lr=self.lr,
            dampening=0, nesterov=False, maximize=False, has_sparse_grad=False,
        )  # fmt: skip

    def _step_rows(
        self, kernels: ModuleType, gradient: Tensor, where: slice | Tensor, *stored: Tensor
    ) -> None:
        kernels.sgd_rows(
            *stored, gradient, where, lr=self.lr, momentum=self.rule.momentum,
            weight_decay=self.rule.weight_decay, unscale=self.unscale,
            seed=self._noise.seed, step=self.steps,
        )  # fmt: skip

    def _idle(self, missed: Tensor, weight: Tensor, *state: Tensor) -> list[Tensor]:
        factors = self.table[missed].to(weight.dtype)  # (n, 2, 2)
        (momentum,) = state
        moved = (factors[:, 1, 1:] * weight).addcmul_(factors[:, 1, :1], momentum)
        return [moved, momentum.mul_(factors[:, 0, :1]).addcmul_(factors[:, 0, 1:], weight)]

    def _moved(self, missed: Tensor, weight: Tensor, *state: Tensor) -> Tensor:
        factors = self.table[missed, 1].to(weight.dtype)  # (n, 2)
        return weight.mul_(factors[:, 1:]).addcmul_(factors[:, :1], state[0])

    def _identity(self, window: int) -> Tensor:
        return torch.eye(2, dtype=torch.float64).repeat(window, 1, 1)

    def _grown(self) -> Tensor:
        momentum, decay, lr = self.rule.momentum, self.rule.weight_decay, self.lr
        step = self.table.new_tensor([[momentum, decay], [-lr * momentum, 1 - lr * decay]])
        return torch.cat([self.table[:1], step @ self.table[:-1]])


class AdamWUpdate(HeadUpdate):
    """AdamW, as torch.optim.AdamW.

    Steps that a row missed let its moments and its weight decay exactly; the moves that AdamW
    would have made with a gradient of zero are left out, as in torch.optim.SparseAdam. The table
    holds the decay of the weight over 0, 1, ... missed steps.
    """

    MOMENTS = ("exp_avg", "exp_avg_sq")

    def _step(self, gradient: Tensor, weight: Tensor, *state: Tensor) -> None:
        rule = self.rule
        # adamw() counts the step in the tensor that it is given.
        steps = torch.full((), float(self.steps), device=weight.device)
        adamw(
            [weight], [gradient], [state[0]], [state[1]], [], [steps], fused=True, foreach=False,
            amsgrad=False, beta1=rule.momentum, beta2=rule.beta2, lr=self.lr,
            weight_decay=rule.weight_decay, eps=rule.eps, maximize=False,
        )  # fmt: skip

    def _step_rows(
        self, kernels: ModuleType, gradient: Tensor, where: slice | Tensor, *stored: Tensor
    ) -> None:
        rule = self.rule
        kernels.adamw_rows(
            *stored, gradient, where, lr=self.lr, beta1=rule.momentum, beta2=rule.beta2,
            eps=rule.eps, weight_decay=rule.weight_decay, unscale=self.unscale,
            seed=self._noise.seed, step=self.steps,
        )  # fmt: skip

    def _idle(self, missed: Tensor, weight: Tensor, *state: Tensor) -> list[Tensor]:
        first, second = (
            torch.pow(beta, missed.to(torch.float64)).to(weight.dtype)[:, None]
            for beta in (self.rule.momentum, self.rule.beta2)
        )
        return [self._moved(missed, weight), first * state[0], second * state[1]]

    def _moved(self, missed: Tensor, weight: Tensor, *state: Tensor) -> Tensor:
        return weight.mul_(self.table[missed].to(weight.dtype)[:, None])

    def _identity(self, window: int) -> Tensor:
        return torch.ones(window, dtype=torch.float64)

    def _grown(self) -> Tensor:
        return torch.cat([self.table[:1], self.table[:-1] * (1 - self.lr * self.rule.weight_decay)])
