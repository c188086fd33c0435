"""Optimizer, and parameter groups by weight decay and learning rate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn


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
