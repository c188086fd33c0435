"""Precision of the network where `train.precision` is auto."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from lookalike.distributed.world import World
from lookalike.losses.kernels import has_bf16_products

Precision = Literal["fp32", "fp16", "bf16"]
_ORDER: tuple[Precision, ...] = ("fp32", "fp16", "bf16")

FEWEST_PARAMETERS = 5_000_000
"""Of a network that is trained in bf16 on a CPU: products are a small part of smaller ones."""


def own_precision(network: nn.Module, device: torch.device) -> Precision:
    """The fastest precision in which `device` trains the network well.

    On a CPU with AMX a ResNet-50 takes half the time of float32 in bfloat16, a ViT too. oneDNN's
    bfloat16 kernels of grouped convolutions are slow: networks with them stay in float32.
    """
    if device.type == "cuda":
        # Without emulation: GPUs before Ampere accept bfloat16 tensors, and multiply them many
        # times slower than float16.
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    grouped = any(isinstance(each, nn.Conv2d) and each.groups > 1 for each in network.modules())
    small = sum(each.numel() for each in network.parameters()) < FEWEST_PARAMETERS
    return "bf16" if has_bf16_products(device) and not (grouped or small) else "fp32"


def common_precision(network: nn.Module, world: World) -> Precision:
    """`own_precision` of the workers, or where they differ the one that all of them have."""
    found = world.all_gather_object(own_precision(network, world.device))
    return next(each for each in _ORDER if each in found)
