"""Which weights change, how fast, and by what rule."""

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
    """The learning rate of every step.

    Attributes:
        lr: rate after the warm-up.
        total_steps: length of the run.
        warmup_steps: steps of the linear rise; a tenth of the run at most.
        min_lr: where the cosine ends.
        kind: "cosine" (Loshchilov and Hutter, SGDR, 2017, one cycle) or "constant".
    """

    lr: float
    total_steps: int
    warmup_steps: int = 0
    min_lr: float = 0.0
    kind: Literal["cosine", "constant"] = "cosine"

    def at(self, step: int) -> float:
        """The rate of step `step`, counted from 0."""
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
    """Parameters by what befalls them.

    Norms, biases and what the backbone itself names (position embeddings, class tokens) have no
    weight decay. Each group has `lr_factor`, relative to the schedule.

    Args:
        network: backbone, neck and branch.
        heads: the modules that hold class weights for the optimizer to change.
        weight_decay: for all other weights.
        backbone_prefix: how the names of the backbone's parameters begin.
        backbone_lr_factor: rate of the backbone.
        head_lr_factor: rate of the class weights.
    """
    exempt = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in network.named_modules()
        if callable(getattr(module, "no_weight_decay", None))
        for name in module.no_weight_decay()
    }
    # The backbone has groups of its own even at the same rate: it may begin to learn later, and
    # the fused optimizers want all of a group to have a momentum or none.
    groups: dict[tuple[str, float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:  # see `lookalike.model.trial_pass.exclude_unused`
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
    """The schedule's rate, for each group, and each update of a head, by its factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
    for update in updates:
        update.lr = lr * update.rule.lr_factor


@dataclass
class LossScaler:
    """The factor that keeps float16 gradients from vanishing.

    The rule of torch's GradScaler (Micikevicius et al., Mixed Precision Training, 2018), but the
    caller decides what is finite, because all workers must decide alike.

    Attributes:
        scale: the factor; 1 and constant when `enabled` is False.
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
    """An exponential moving average of a module's weights and buffers (Polyak averaging).

    The decay rises with the steps, min(decay, (1 + t) / (10 + t)), so that the random start does
    not linger.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        self.average = {name: value.detach().clone() for name, value in _state(module).items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average after step `step`, counted from 0."""
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
        """The module holds the average inside the block, its own weights again after it."""
        current = _state(self.module)
        own = {name: value.detach().clone() for name, value in current.items()}
        self._write(self.average)
        try:
            yield
        finally:
            self._write(own)

    def load(self, average: Mapping[str, Tensor]) -> None:
        """Take over a saved average."""
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
    """The sum of the squares of all gradients, float32 scalar."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return torch.zeros(())
    norms = torch._foreach_norm(grads)
    return torch.stack([norm.float() for norm in norms]).square().sum()


@torch.no_grad()
def all_finite(tensors: Iterable[Tensor]) -> Tensor:
    """Whether no floating-point tensor holds NaN or infinity, () bool, on their device."""
    floats = [each for each in tensors if each.is_floating_point() and each.numel()]
    if not floats:
        return torch.ones((), dtype=torch.bool)
    return (
        torch.stack([norm.float() for norm in torch._foreach_norm(floats, torch.inf)])
        .isfinite()
        .all()
    )
