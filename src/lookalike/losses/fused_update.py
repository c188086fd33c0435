"""Optimizers that change class weights chunk by chunk, while the gradient is still in the cache.

An ordinary optimizer wants the whole gradient of the weight first: as much memory as the weight,
written and read once more. Here each chunk of the gradient is used as soon as it is there
(`lookalike.losses.chunked`), and never stored.

The numbers are those of torch.optim.SGD and torch.optim.AdamW, by the same code. What differs is
what an optimizer could only know with the whole gradient: its norm. Gradient clipping therefore
leaves these weights out. The rows change at the end of a step, when the caller knows that its loss
and the gradients of the network are finite.

Rows that a sampled step does not look at are not touched at all, and catch up when they are drawn
again. The optimizers themselves are in `lookalike.losses.class_optimizers`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor, nn

from lookalike.losses.kernels import row_updates
from lookalike.losses.stochastic_rounding import Noise, store

WINDOW = 4096
"""Steps that a row may miss; then all rows catch up."""


@dataclass(frozen=True)
class UpdateRule:
    """Which optimizer, and its constants.

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


_BLOCK = 1024  # rows that catch up at once: they stay in the cache


class HeadUpdate(nn.Module, ABC):
    """The state of an optimizer over class weights, and its step on some of their rows.

    A step is `begin`, a backward pass that leaves its work with `defer`, and `end`, which does it:
    one `use` for each chunk. Without `end` a step changes nothing. State is in buffers, so that it
    follows the head to its device.

    Attributes:
        rule: the optimizer's constants.
        lazy: whether steps see a part of the rows only.
        lr: learning rate; to be set before a step ends.
        steps: how many there were.
    """

    clock: Tensor
    seen: Tensor
    table: Tensor

    MOMENTS: tuple[str, ...] = ()
    MOVED_BY = 0

    def __init__(self, rule: UpdateRule, weight: Tensor, lazy: bool, seed: int) -> None:
        super().__init__()
        self.rule, self.lazy = rule, lazy
        self.lr, self.unscale = 0.0, 1.0
        for name in self.MOMENTS:
            self.register_buffer(name, torch.zeros_like(weight, requires_grad=False))
        # Steps done, by all rows together; on the host, where it is needed.
        self.steps = 0
        self.register_buffer("clock", torch.zeros((), dtype=torch.int64))
        if lazy:
            # Steps that each row has been through.
            self.register_buffer("seen", torch.zeros(len(weight), dtype=torch.int32))
            self.register_buffer("table", self._identity(WINDOW))
        self._noise = Noise(seed)
        self._taken: tuple[slice | Tensor, list[Tensor]] | None = None
        self._deferred: Callable[[], None] | None = None

    @property
    def rows(self) -> dict[str, Tensor]:
        """The state that belongs to rows: first dimension as the weight's."""
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
        """Start a step, before its forward pass.

        Args:
            unscale: what gradients are to be multiplied by: 1 / loss scale.
        """
        self.unscale = unscale
        self._deferred = None
        self._noise.renew(self.steps, self.clock.device)

    def defer(self, work: Callable[[], None]) -> None:
        """Keep what the backward pass leaves to do, for `end`."""
        assert self._deferred is None, "one backward pass a step"
        self._deferred = work

    def read(self, weight: Tensor, where: slice | Tensor) -> Tensor:
        """The rows `where` as they are in this step, (n, D); not to be written to."""
        if not self.lazy:
            return weight.detach()[where]
        moments = [self.get_buffer(name) for name in self.MOMENTS[: self.MOVED_BY]]
        wide = [_wide(tensor, where) for tensor in [weight, *moments]]
        return self._moved(self._missed(where), *wide)

    def take(self, weight: Tensor, where: slice | Tensor) -> Tensor:
        """The same, of rows whose `use` comes next."""
        if not self.lazy or row_updates(weight.device) is not None:
            return self.read(weight, where)
        self._taken = where, self.caught_up(weight, where)
        return self._taken[1][0]

    def use(self, weight: Tensor, where: slice | Tensor, gradient: Tensor) -> None:
        """Change the rows `where` of the weight by their gradient (n, D), which is overwritten."""
        taken, self._taken = self._taken, None
        stored = self._stored(weight)
        kernels = row_updates(weight.device)
        if kernels is not None and gradient.dtype == torch.float32:
            self.catch_up(weight, where)
            self._step_rows(kernels, gradient, where, *(tensor.detach() for tensor in stored))
        else:
            if self.unscale != 1:
                gradient.mul_(self.unscale)
            if taken is not None and taken[0] is where:
                wide = taken[1]
            else:
                wide = self.caught_up(weight, where)
            self._step(gradient, *wide)
            self._store(weight, where, wide)
        if self.lazy:
            self.seen[where] = self.steps + 1

    @torch.no_grad()
    def end(self, weight: Tensor) -> None:
        """Change the rows and finish a step; every now and then all rows catch up.

        A step that is to change nothing is left without it.
        """
        work, self._deferred = self._deferred, None
        if work is not None:
            work()
        self.steps += 1
        self.clock.fill_(self.steps)
        if not self.lazy:
            return
        self.table.copy_(self._grown())
        if self.steps % (WINDOW - 1) == 0:
            self.catch_up(weight, slice(0, len(weight)))

    @torch.no_grad()
    def catch_up(self, weight: Tensor, where: slice | Tensor) -> None:
        """Let the rows `where` go through the steps that they missed, with gradients of zero."""
        if not self.lazy:
            return
        if isinstance(where, slice):
            index = torch.arange(where.start, where.stop, device=weight.device)
        else:
            index = where
        for part in index.split(_BLOCK):
            self._store(weight, part, self.caught_up(weight, part))
        self.seen[where] = self.steps

    def caught_up(self, weight: Tensor, where: slice | Tensor) -> list[Tensor]:
        """Weight and state of the rows `where` once they have caught up, (n, D) each.

        Those of float32 may be the stored memory itself where there is nothing to catch up with.
        """
        wide = [_wide(tensor, where) for tensor in self._stored(weight)]
        return self._idle(self._missed(where), *wide) if self.lazy else wide

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
        """The same on the rows `where` of the whole weight and state, by a kernel of its own."""

    @abstractmethod
    def _moved(self, missed: Tensor, weight: Tensor, *state: Tensor) -> Tensor:
        """The weight after `missed` (n,) steps without a gradient; needs MOVED_BY of the state."""

    @abstractmethod
    def _idle(self, missed: Tensor, weight: Tensor, *state: Tensor) -> list[Tensor]:
        """Weight and state after `missed` (n,) steps without a gradient; may use their memory."""

    @abstractmethod
    def _identity(self, window: int) -> Tensor:
        """The table of what 0, 1, ... missed steps do, before the first step."""

    @abstractmethod
    def _grown(self) -> Tensor:
        """The table after another step."""


def _wide(tensor: Tensor, where: slice | Tensor) -> Tensor:
    """The rows `where` in float32 at least; of a range, the tensor's own memory if it is that."""
    rows = tensor.detach()
    rows = rows[where] if isinstance(where, slice) else rows.index_select(0, where)
    return rows.float() if rows.dtype == torch.bfloat16 else rows
