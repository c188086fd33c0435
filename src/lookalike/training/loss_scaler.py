"""Dynamic loss scale of float16 training."""

from __future__ import annotations

from dataclasses import dataclass


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
