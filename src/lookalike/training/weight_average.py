"""Average of weights over the steps: exponential, or equal over the last ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lookalike.training.network_shards import as_sharded, part_of, sharded_from


class WeightAverage:
    """Average of a module's weights and buffers over the steps from `start` on.

    With a decay it is exponential: the average keeps min(decay, (1 + t) / (10 + t)) of itself in
    the t-th of these steps (Polyak averaging), so that random initial weights fade. Without one
    all steps weigh the same (Izmailov et al., Averaging Weights Leads to Wider Optima and Better
    Generalization, 2018). Before `start` it is the module itself.

    Running statistics of batch norms are averaged alike, in place of another pass over the images
    at each measurement: over steps of a small learning rate they differ little.

    Attributes:
        start: a step, counted from 0.
        values: of the buffers, and of the weights that require a gradient when it begins; of a
            sharded module the parts of this worker.
    """

    def __init__(self, module: nn.Module, decay: float | None = None) -> None:
        self.module, self.decay, self.start = module, decay, 0
        fixed = {name for name, value in module.named_parameters() if not value.requires_grad}
        self.values = {
            name: value.detach().clone()
            for name, value in _state(module).items()
            if name not in fixed
        }

    def kept(self, step: int) -> float:
        """Weight of the average so far after step `step`; the module has the rest."""
        done = step - self.start
        if done < 0:
            return 0.0
        return (
            done / (done + 1) if self.decay is None else min(self.decay, (1 + done) / (10 + done))
        )

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after step `step`, counted from 0."""
        current = _state(self.module)
        floats = [name for name, value in self.values.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.values[name] for name in floats],
            [current[name] for name in floats],
            1 - self.kept(step),
        )
        for name in self.values.keys() - set(floats):
            self.values[name].copy_(current[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the module inside the block, and its own weights back after it."""
        current = _state(self.module)
        own = {name: current[name].detach().clone() for name in self.values}
        self._write(self.values)
        try:
            yield
        finally:
            self._write(own)

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Load a saved average; what it lacks did not change so far, and is that of the module."""
        current = self.module.state_dict()
        for name, value in self.values.items():
            value.copy_(part_of(as_sharded(values.get(name, current[name]), current[name])))

    def sharded(self) -> dict[str, Tensor]:
        """Values by name, sharded as the module's are."""
        current = self.module.state_dict()
        return {name: sharded_from(value, current[name]) for name, value in self.values.items()}

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        current = _state(self.module)
        for name, value in values.items():
            current[name].copy_(value)


def resumed_start(wanted: int, step: int, saved: int | None) -> int:
    """First step of an average of equal weights that is resumed after `step` steps.

    Of a run that was resumed with another length, the steps from `wanted` on cannot be averaged any
    more where some of them are done: either the saved average continues, or a new one begins, as
    its first step is nearer to the one that was wanted.

    Args:
        wanted: the first step of the part to be averaged.
        saved: that of the saved average; None where there is no average of equal weights.
    """
    if wanted >= step:
        return wanted
    began = step if saved is None else min(saved, step)
    return min((step, began), key=lambda start: abs(start - wanted))


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: part_of(value) for name, value in module.state_dict().items()}
