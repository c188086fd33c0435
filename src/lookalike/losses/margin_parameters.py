"""Parameters of a loss beyond `margin` and `scale` (`loss.options`), each with its range."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, cast

from lookalike.errors import ConfigError

if TYPE_CHECKING:
    from lookalike.losses.metric_loss import MetricLoss

ABOVE_ZERO = math.nextafter(0, 1)


@dataclass(frozen=True)
class _Range:
    words: str
    lowest: float
    highest: float
    degrees: bool


def parameter(default: float, words: str, lowest: float, highest: float = math.inf) -> Any:
    """A dataclass field of a loss; `words` ends "is not ...", as in "a number from 0 to 1"."""
    return field(default=default, metadata={"range": _Range(words, lowest, highest, False)})


def angle_parameter(default: float) -> Any:
    """A dataclass field of a loss, an angle in degrees; refused where it looks like radians."""
    allowed = _Range("0, or 1 to 90 degrees", 0, 90, True)
    return field(default=default, metadata={"range": allowed})


def check_parameters(loss: MetricLoss) -> None:
    """Raise a ConfigError where a parameter of `loss`, a dataclass, is outside its range."""
    for entry in fields(cast(Any, loss)):
        allowed = entry.metadata.get("range")
        if allowed is None:
            continue
        value = getattr(loss, entry.name)
        place = f"loss.options.{entry.name}={value:g} for {loss.name}"
        if allowed.degrees and 0 < value < 1:
            raise ConfigError(
                f"{place} is in degrees, and {value:g} looks like radians; "
                f"{math.degrees(value):.1f} degrees is the same "
                f"(allowed: {allowed.words}; default: {entry.default:g})"
            )
        if not allowed.lowest <= value <= allowed.highest:  # NaN fails the comparison
            raise ConfigError(f"{place} is not {allowed.words}; default: {entry.default:g}")
