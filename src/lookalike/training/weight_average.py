"""Exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


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
