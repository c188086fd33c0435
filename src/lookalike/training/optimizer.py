"""Optimizer, and parameter groups by weight decay and learning rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import nn

_MOMENTS = {"sgd": {"momentum_buffer"}, "adamw": {"exp_avg", "exp_avg_sq"}}
"""States of a parameter in each optimizer, without counts of steps."""


def parameter_groups(
    network: nn.Module,
    heads: Iterable[nn.Module],
    *,
    weight_decay: float,
    backbone_prefix: str,
    backbone_lr_factor: float = 1.0,
    head_lr_factor: float = 1.0,
    layers: Mapping[str, int] = MappingProxyType({}),
    layer_decay: float = 1.0,
    parts: Mapping[str, nn.Parameter] = MappingProxyType({}),
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
        layers: layer of each of the backbone's parameters, from 0 on, by the name behind
            `backbone_prefix`; those that have none are of the last one.
        layer_decay: factor of the rate of a layer relative to the next one (Bao et al., BEiT,
            2022); the last one has that of the backbone.
        parts: what is updated in place of a parameter of the network, by its name.
    """
    last = max(layers.values(), default=0)
    exempt = {  # names and patterns
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
        spared = any(fnmatchcase(name, pattern) for pattern in exempt)
        decay = 0.0 if parameter.ndim <= 1 or spared else weight_decay
        if name.startswith(backbone_prefix):
            layer = layers.get(name.removeprefix(backbone_prefix), last)
            key = ("backbone", backbone_lr_factor * layer_decay ** (last - layer), decay)
        else:
            key = ("neck", 1.0, decay)
        groups.setdefault(key, []).append(parts.get(name, parameter))
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


def name_of(optimizer: torch.optim.Optimizer) -> Literal["sgd", "adamw"]:
    """The name that `create_optimizer` takes for such an optimizer."""
    return "sgd" if isinstance(optimizer, torch.optim.SGD) else "adamw"


def check_moments(moments: set[str], name: str) -> None:
    """Check that saved states, if any, are those of the optimizer `name`.

    Args:
        moments: names of the states, without counts of steps.
        name: as `create_optimizer` takes it.

    Raises:
        ValueError: they are another one's.
    """
    if moments and moments != _MOMENTS[name]:
        raise ValueError(
            f"its optimizer state ({', '.join(sorted(moments))}) is not that of optim.name={name}"
        )
