"""Learning rate of each step, and of each parameter group by its factor."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch

from lookalike.losses.head_update import HeadUpdate


@dataclass(frozen=True)
class LearningRateSchedule:
    """Learning rate of every step.

    Attributes:
        lr: after the warm-up.
        warmup_steps: of the linear rise; a tenth of the run at most.
        min_lr: at the end of the cosine.
        kind: "cosine" (Loshchilov and Hutter, SGDR, 2017, one cycle) or "constant".
    """

    lr: float
    total_steps: int
    warmup_steps: int = 0
    min_lr: float = 0.0
    kind: Literal["cosine", "constant"] = "cosine"

    def at(self, step: int) -> float:
        """Rate of a step, counted from 0."""
        warmup = min(self.warmup_steps, self.total_steps // 10)
        if step < warmup:
            return self.lr * (step + 1) / (warmup + 1)
        if self.kind == "constant":
            return self.lr
        part = (step - warmup) / max(self.total_steps - warmup, 1)
        low = min(self.min_lr, self.lr)
        return low + (self.lr - low) * 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))


def set_lr(optimizer: torch.optim.Optimizer, lr: float, updates: Iterable[HeadUpdate] = ()) -> None:
    """Set the rate of each group, and of each head with an update of its own, by its factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
    for update in updates:
        update.lr = lr * update.rule.lr_factor
