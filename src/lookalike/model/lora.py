"""Low-rank adaptation: small matrices that learn beside the frozen linear layers of a backbone.

y = W x + b + B A x, with A (r, in) and B (out, r), B zero at first (Hu et al., LoRA: Low-Rank
Adaptation of Large Language Models, 2021), of scale 1. Written here rather than taken from `peft`:
it is a layer of ten lines, while peft comes with transformers and accelerate, wraps layers so that
all weights change their names (in checkpoints, the saved model and `train.start_from`), and adapts
by name layers whose weight some models of timm read past their `forward`, without effect.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lookalike.data.image_size import ImageSize
from lookalike.errors import ModelError
from lookalike.model.backbone import Backbone
from lookalike.model.dry_run import dry_run

_DOWN, _UP = "lora_down", "lora_up"


class LoraLinear(nn.Linear):
    """A linear layer with `lora_down` (r, in) and `lora_up` (out, r), which learn in its place."""

    lora_down: nn.Parameter
    lora_up: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        """The activations (..., out) of (..., in)."""
        return super().forward(input) + F.linear(F.linear(input, self.lora_down), self.lora_up)

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """Weight (out, in) of a plain layer with the same outputs."""
        return torch.addmm(self.weight, self.lora_up, self.lora_down)


def add_lora(backbone: Backbone, rank: int, size: ImageSize) -> list[str]:
    """Freeze `backbone`, and give its linear layers matrices of `rank` that learn.

    Those that its features need, that are called as modules, and both of whose sides are above
    the rank; all other parameters are frozen. Other weights keep their names.

    Args:
        backbone: changed in place.
        rank: r.
        size: of the images, for a dry run.

    Returns:
        The names of the adapted layers.

    Raises:
        ModelError: there are no such layers.
    """
    called = _called_linears(backbone, size)
    adapted = {
        name: layer
        for name, layer in called.items()
        if layer.weight.requires_grad and rank < min(layer.in_features, layer.out_features)
    }
    if not adapted:
        sides = [min(layer.in_features, layer.out_features) for layer in called.values()]
        fix = (
            f"it must be below {max(sides)}"
            if sides
            else (
                "it has none, as convolutional networks; use train.freeze_backbone=true, "
                "train.freeze_backbone_epochs or optim.backbone_lr_factor"
            )
        )
        raise ModelError(
            f"model.lora_rank={rank} adapts the linear layers of {backbone.name}, as attention and "
            f"ViT, Swin or ConvNeXt blocks have them: {fix}"
        )
    backbone.requires_grad_(False)
    for layer in adapted.values():
        # The class alone changes: the module keeps its state and its place.
        layer.__class__ = LoraLinear
        down = layer.weight.new_empty(rank, layer.in_features)
        nn.init.kaiming_uniform_(down, a=math.sqrt(5))  # as nn.Linear, and as the paper's code
        setattr(layer, _DOWN, nn.Parameter(down))
        setattr(layer, _UP, nn.Parameter(layer.weight.new_zeros(layer.out_features, rank)))
    return list(adapted)


def is_lora(name: str) -> bool:
    """True for the name of a parameter of `LoraLinear` beyond those of a linear layer."""
    return name.rpartition(".")[2] in (_DOWN, _UP)


def unadapted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The low-rank matrices of `state` with those behind set to zero: they adapt nothing."""
    return {
        name: torch.zeros_like(value) if name.endswith(_UP) else value
        for name, value in state.items()
        if is_lora(name)
    }


def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """Tensors of `module` by name, as if it had never been adapted."""
    state = {name: value for name, value in module.state_dict().items() if not is_lora(name)}
    for name, layer in module.named_modules():
        if isinstance(layer, LoraLinear):
            state[f"{name}.weight"] = layer.merged_weight()
    return state


def _called_linears(backbone: Backbone, size: ImageSize) -> dict[str, nn.Linear]:
    """Linear layers by name whose `forward` takes part in that of `backbone`."""
    found: dict[str, nn.Linear] = {}

    def note(name: str, layer: nn.Linear, *_: Any) -> None:
        found[name] = layer

    layers = [
        (name, layer)
        for name, layer in backbone.named_modules()
        if isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward
    ]
    hooks = [
        layer.register_forward_pre_hook(lambda *_, name=name, layer=layer: note(name, layer))
        for name, layer in layers
    ]
    try:
        dry_run(backbone, size)
    finally:
        for hook in hooks:
            hook.remove()
    return found
