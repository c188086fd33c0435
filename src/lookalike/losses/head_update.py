"""Optimizers that update class weights chunk by chunk, while the gradient is in the cache.

An ordinary optimizer needs the whole gradient of the weight first: as much memory as the weight,
written and read once more. Here each chunk of the gradient is used at once
(`lookalike.losses.class_statistics`), and never stored.

The numbers are those of torch.optim.SGD and torch.optim.AdamW, by the same code. Only the norm of
the whole gradient is missing: gradient clipping leaves these weights out. The rows change at the
end of a step, when the caller has checked that its loss and the network's gradients are finite.

Updates of rows outside a sampled step are lazy: they are made when the rows take part again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from lookalike.distributed.world import ALONE
from lookalike.losses.kernels import update_kernels
from lookalike.losses.stochastic_rounding import Noise, store

WINDOW = 4096
"""Steps that a row may miss; then all rows are brought up to date."""

_BLOCK = 1024  # rows brought up to date at once: they stay in the cache


@dataclass(frozen=True)
class UpdateRule:
    """An optimizer and its constants.

    Attributes:
        name: "sgd" or "adamw".
        momentum: of sgd; the first beta of adamw.
        weight_decay: coupled for sgd, decoupled for adamw, as in torch.
        beta2: second beta of adamw.
        eps: of adamw.
        lr_factor: learning rate, relative to that of the schedule.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    beta2: float = 0.999
    eps: float = 1e-8
    lr_factor: float = 1.0


class HeadUpdate(nn.Module, ABC):
    """State of an optimizer over class weights, and its step on some of their rows.

    A step is `begin`, a backward pass that leaves its work with `defer`, and `end`, which does it:
    one `use` for each chunk. Without `end` a step changes nothing. State is in buffers, so that it
    follows the head to its device.

    Attributes:
        lazy: steps see a part of the rows only.
        world: workers that hold the same weight, each with the gradient of its own images; these
            are averaged chunk by chunk.
        lr: learning rate; to be set before a step ends.
    """

    clock: Tensor
    seen: Tensor
    table: Tensor

    MOMENTS: tuple[str, ...] = ()
    MOMENTS_READ = 0  # of these, for the weight after missed steps

    def __init__(self, rule: UpdateRule, weight: Tensor, lazy: bool, seed: int) -> None:
        super().__init__()
        self.rule, self.lazy, self.world = rule, lazy, ALONE
        self.lr, self.unscale = 0.0, 1.0
        for name in self.MOMENTS:
            self.register_buffer(name, torch.zeros_like(weight, requires_grad=False))
        # Steps done, by all rows together; on the host, where it is needed.
        self.steps = 0
        self.register_buffer("clock", torch.zeros((), dtype=torch.int64))
        if lazy:
            # Steps that are in each row.
            self.register_buffer("seen", torch.zeros(len(weight), dtype=torch.int32))
            self.register_buffer("table", self._first_table(WINDOW))
        self._noise = Noise(seed)
        self._taken: tuple[slice | Tensor, list[Tensor]] | None = None
        self._deferred: Callable[[], None] | None = None

    @property
    def rows(self) -> dict[str, Tensor]:
        """The state of rows: first dimension as the weight's."""
        names = [*self.MOMENTS, *(["seen"] if self.lazy else [])]
        return {name: self.get_buffer(name) for name in names}

    @property
    def common(self) -> dict[str, Tensor]:
        """The state that is the same on every worker."""
        return {
            name: self.get_buffer(name) for name in ["clock", *(["table"] if self.lazy else [])]
        }

    def restored(self) -> None:
        """To be called after the state was filled from a checkpoint."""
        self.steps = int(self.clock)

    def begin(self, unscale: float = 1.0) -> None:
        """Start a step, before its forward pass; `unscale` is 1 / loss scale."""
        self.unscale = unscale
        self._deferred = None
        self._noise.renew(self.steps, self.clock.device)

    def defer(self, work: Callable[[], None]) -> None:
        """Keep the rest of the backward pass, one `use` for each chunk, for `end`."""
        assert self._deferred is None, "one backward pass a step"
        self._deferred = work

    def read(self, weight: Tensor, where: slice | Tensor) -> Tensor:
        """The rows `where` as they are in this step, (n, D); not to be written to."""
        if not self.lazy:
            return weight.detach()[where]
        moments = [self.get_buffer(name) for name in self.MOMENTS[: self.MOMENTS_READ]]
        wide = [_wide(tensor, where) for tensor in [weight, *moments]]
        return self._weight_after(self._missed(where), *wide)

    def take(self, weight: Tensor, where: slice | Tensor) -> Tensor:
        """`read` of rows whose `use` comes next."""
        if not self.lazy or update_kernels(weight.device) is not None:
            return self.read(weight, where)
        self._taken = where, self.current_rows(weight, where)
        return self._taken[1][0]

    def use(self, weight: Tensor, where: slice | Tensor, gradient: Tensor) -> None:
        """Change the rows `where` of the weight by their gradient (n, D), which is overwritten."""
        if self.world.size > 1:
            self.world.sum(gradient).div_(self.world.size)
        taken, self._taken = self._taken, None
        kernels = update_kernels(weight.device)
        if kernels is not None and gradient.dtype == torch.float32:
            self.apply_missed_steps(weight, where)
            stored = (tensor.detach() for tensor in self._stored(weight))
            self._step_rows(kernels, gradient, where, *stored)
        else:
            if self.unscale != 1:
                gradient.mul_(self.unscale)
            if taken is not None and taken[0] is where:
                wide = taken[1]
            else:
                wide = self.current_rows(weight, where)
            self._step(gradient, *wide)
            self._store(weight, where, wide)
        if self.lazy:
            self.seen[where] = self.steps + 1

    @torch.no_grad()
    def end(self, weight: Tensor) -> None:
        """Change the rows and finish a step; every now and then bring all rows up to date.

        A step that is to change nothing goes without it.
        """
        work, self._deferred = self._deferred, None
        if work is not None:
            work()
        self.steps += 1
        self.clock.fill_(self.steps)
        if not self.lazy:
            return
        self.table.copy_(self._next_table())
        if self.steps % (WINDOW - 1) == 0:
            self.apply_missed_steps(weight, slice(0, len(weight)))

    @torch.no_grad()
    def apply_missed_steps(self, weight: Tensor, where: slice | Tensor) -> None:
        """Bring the rows `where` up to date: missed steps have gradients of zero."""
        if not self.lazy:
            return
        if isinstance(where, slice):
            index = torch.arange(where.start, where.stop, device=weight.device)
        else:
            index = where
        for part in index.split(_BLOCK):
            self._store(weight, part, self.current_rows(weight, part))
        self.seen[where] = self.steps

    def current_rows(self, weight: Tensor, where: slice | Tensor) -> list[Tensor]:
        """Weight and state of the rows `where` with the steps that they missed, (n, D) each.

        Those of float32 may be the stored memory itself where no step is missing.
        """
        wide = [_wide(tensor, where) for tensor in self._stored(weight)]
        return self._state_after(self._missed(where), *wide) if self.lazy else wide

    def _missed(self, where: slice | Tensor) -> Tensor:
        return self.steps - self.seen[where].long()  # (n,)

    def _stored(self, weight: Tensor) -> list[Tensor]:
        return [weight, *(self.get_buffer(name) for name in self.MOMENTS)]

    def _store(self, weight: Tensor, where: slice | Tensor, wide: list[Tensor]) -> None:
        for name, tensor, value in zip(
            ["weight", *self.MOMENTS], self._stored(weight), wide, strict=True
        ):
            store(tensor, where, value, self._noise, name)

    @abstractmethod
    def _step(self, gradient: Tensor, weight: Tensor, *state: Tensor) -> None:
        """One step of the optimizer on these rows, in place."""

    @abstractmethod
    def _step_rows(
        self, kernels: ModuleType, gradient: Tensor, where: slice | Tensor, *stored: Tensor
    ) -> None:
        """`_step` on the rows `where` of the whole weight and state, by a kernel."""

    @abstractmethod
    def _weight_after(self, missed: Tensor, weight: Tensor, *state: Tensor) -> Tensor:
        """The weight after `missed` (n,) steps without a gradient."""

    @abstractmethod
    def _state_after(self, missed: Tensor, weight: Tensor, *state: Tensor) -> list[Tensor]:
        """Weight and state after `missed` (n,) steps without a gradient; may use their memory."""

    @abstractmethod
    def _first_table(self, window: int) -> Tensor:
        """The table of the effect of 0, 1, ... missed steps, before the first step."""

    @abstractmethod
    def _next_table(self) -> Tensor:
        """The table after another step."""


class SGDUpdate(HeadUpdate):
    """SGD with momentum, as torch.optim.SGD.

    A step without a gradient is linear in the momentum m and the weight w:

        (m, w) <- A (m, w),  A = [[momentum, decay], [-lr momentum, 1 - lr decay]]

    so missed steps are made up for exactly, by the product of their matrices. The table holds
    that product for 0, 1, ... missed steps.
    """

    MOMENTS = ("momentum_buffer",)
    MOMENTS_READ = 1

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

    def _state_after(self, missed: Tensor, weight: Tensor, *state: Tensor) -> list[Tensor]:
        factors = self.table[missed].to(weight.dtype)  # (n, 2, 2)
        (momentum,) = state
        moved = (factors[:, 1, 1:] * weight).addcmul_(factors[:, 1, :1], momentum)
        return [moved, momentum.mul_(factors[:, 0, :1]).addcmul_(factors[:, 0, 1:], weight)]

    def _weight_after(self, missed: Tensor, weight: Tensor, *state: Tensor) -> Tensor:
        factors = self.table[missed, 1].to(weight.dtype)  # (n, 2)
        return weight.mul_(factors[:, 1:]).addcmul_(factors[:, :1], state[0])

    def _first_table(self, window: int) -> Tensor:
        return torch.eye(2, dtype=torch.float64).repeat(window, 1, 1)

    def _next_table(self) -> Tensor:
        momentum, decay, lr = self.rule.momentum, self.rule.weight_decay, self.lr
        step = self.table.new_tensor([[momentum, decay], [-lr * momentum, 1 - lr * decay]])
        return torch.cat([self.table[:1], step @ self.table[:-1]])


class AdamWUpdate(HeadUpdate):
    """AdamW, as torch.optim.AdamW.

    Missed steps decay the moments and the weight exactly; the moves that AdamW would have made
    with a gradient of zero are left out, as in torch.optim.SparseAdam. The table holds the decay
    of the weight over 0, 1, ... missed steps.
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
            *stored, gradient, where, lr=self.lr, betas=(rule.momentum, rule.beta2),
            eps=rule.eps, weight_decay=rule.weight_decay, unscale=self.unscale,
            seed=self._noise.seed, step=self.steps,
        )  # fmt: skip

    def _state_after(self, missed: Tensor, weight: Tensor, *state: Tensor) -> list[Tensor]:
        first, second = (
            torch.pow(beta, missed.to(torch.float64)).to(weight.dtype)[:, None]
            for beta in (self.rule.momentum, self.rule.beta2)
        )
        return [self._weight_after(missed, weight), first * state[0], second * state[1]]

    def _weight_after(self, missed: Tensor, weight: Tensor, *state: Tensor) -> Tensor:
        return weight.mul_(self.table[missed].to(weight.dtype)[:, None])

    def _first_table(self, window: int) -> Tensor:
        return torch.ones(window, dtype=torch.float64)

    def _next_table(self) -> Tensor:
        return torch.cat([self.table[:1], self.table[:-1] * (1 - self.lr * self.rule.weight_decay)])


def create_update(rule: UpdateRule, weight: Tensor, *, lazy: bool, seed: int) -> HeadUpdate:
    """State for `weight` (n, D), in its dtype; `seed` is that of the stochastic rounding."""
    return (SGDUpdate if rule.name == "sgd" else AdamWUpdate)(rule, weight, lazy, seed)


def _wide(tensor: Tensor, where: slice | Tensor) -> Tensor:
    """The rows `where` in float32 at least; of a range, the tensor's own memory if it is that."""
    rows = tensor.detach()
    rows = rows[where] if isinstance(where, slice) else rows.index_select(0, where)
    return rows.float() if rows.dtype == torch.bfloat16 else rows
