"""Optimizer, learning rate, loss scale, average of weights, and operations on gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

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


def parameter_groups(
    network: nn.Module,
    heads: Iterable[nn.Module],
    *,
    weight_decay: float,
    backbone_prefix: str,
    backbone_lr_factor: float = 1.0,
    head_lr_factor: float = 1.0,
) -> list[dict[str, Any]]:
    """Parameter groups by weight decay and learning rate.

    Norms, biases and the parameters that the backbone exempts (position embeddings, class tokens)
    have no weight decay. `lr_factor` of a group is relative to the schedule.

    Args:
        network: backbone, neck and branch.
        heads: modules whose class weights the optimizer updates.
        weight_decay: for all other weights.
        backbone_prefix: of the names of the backbone's parameters.
        backbone_lr_factor: factor of the backbone's rate.
        head_lr_factor: factor of the class weights' rate.
    """
    exempt = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in network.named_modules()
        if callable(getattr(module, "no_weight_decay", None))
        for name in module.no_weight_decay()
    }
    # The backbone has groups of its own even at the same rate: it may be frozen at first, and the
    # fused optimizers need a momentum for all of a group or none.
    groups: dict[tuple[str, float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:  # see `lookalike.model.dry_run.exclude_unused`
            continue
        decay = 0.0 if parameter.ndim <= 1 or name in exempt else weight_decay
        if name.startswith(backbone_prefix):
            key = ("backbone", backbone_lr_factor, decay)
        else:
            key = ("neck", 1.0, decay)
        groups.setdefault(key, []).append(parameter)
    for head in heads:
        key = ("head", head_lr_factor, weight_decay)
        groups.setdefault(key, []).extend(head.parameters(recurse=False))
    return [
        {"params": parameters, "lr_factor": factor, "weight_decay": decay}
        for (_, factor, decay), parameters in groups.items()
    ]


def create_optimizer(
    name: Literal["sgd", "adamw"], groups: list[dict[str, Any]], *, momentum: float
) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW (Loshchilov and Hutter, 2019); `set_lr` gives the rate."""
    if name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=momentum, fused=True)
    return torch.optim.AdamW(groups, lr=0.0, betas=(momentum, 0.999), fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float, updates: Iterable[HeadUpdate] = ()) -> None:
    """Set the rate of each group, and of each head with an update of its own, by its factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
    for update in updates:
        update.lr = lr * update.rule.lr_factor


@dataclass
class LossScaler:
    """Dynamic loss scale of float16 training (Micikevicius et al., Mixed Precision Training, 2018).

    The rule of torch's GradScaler, but the caller decides what is finite: all workers alike.

    Attributes:
        scale: 1 and constant if `enabled` is False.
        good_steps: finite steps since the last change.
    """

    enabled: bool
    scale: float = 1.0
    good_steps: int = 0

    GROW_AFTER = 2000
    SMALLEST = 2.0**-10

    def __post_init__(self) -> None:
        if self.enabled and self.scale == 1.0:
            self.scale = 2.0**16

    def update(self, *, finite: bool) -> None:
        """Halve after gradients that overflowed, double after many that did not."""
        if not self.enabled:
            return
        if not finite:
            self.scale = max(self.scale / 2, self.SMALLEST)
            self.good_steps = 0
            return
        self.good_steps += 1
        if self.good_steps == self.GROW_AFTER:
            self.scale, self.good_steps = self.scale * 2, 0


class Ema:
    """Exponential moving average of a module's weights and buffers (Polyak averaging).

    The decay of step t is min(decay, (1 + t) / (10 + t)), so that random initial weights fade.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        self.average = {name: value.detach().clone() for name, value in _state(module).items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after step `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = _state(self.module)
        floats = [name for name, value in self.average.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.average[name] for name in floats], [current[name] for name in floats], 1 - decay
        )
        for name in self.average.keys() - set(floats):
            self.average[name].copy_(current[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the module inside the block, and its own weights back after it."""
        current = _state(self.module)
        own = {name: value.detach().clone() for name, value in current.items()}
        self._write(self.average)
        try:
            yield
        finally:
            self._write(own)

    def load(self, average: Mapping[str, Tensor]) -> None:
        """Load a saved average."""
        for name, value in self.average.items():
            value.copy_(average[name])

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, value in _state(self.module).items():
            value.copy_(values[name])


def _state(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.state_dict())


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
