"""Options: numbers of a margin beyond `margin` and `scale`, each with its range."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from lookalike.errors import ConfigError

if TYPE_CHECKING:
    from lookalike.losses.margin import Margin

ABOVE_ZERO = math.nextafter(0, 1)


@dataclass(frozen=True)
class _Range:
    words: str
    lowest: float
    highest: float
    degrees: bool


def option(default: float, words: str, lowest: float, highest: float = math.inf) -> Any:
    """A dataclass field of a margin, of at least `lowest` and at most `highest`.

    Args:
        default: the paper's value.
        words: the allowed values in words, as in "is not a number from 0 to 1".
        lowest: the least allowed value.
        highest: the greatest allowed value.
    """
    return field(default=default, metadata={"range": _Range(words, lowest, highest, False)})


def angle_option(default: float) -> Any:
    """A dataclass field of a margin, an angle in degrees that is never meant in radians."""
    allowed = _Range("0, or 1 to 90 degrees", 0, 90, True)
    return field(default=default, metadata={"range": allowed})


def check_options(margin: Margin) -> None:
    """Check every option of `margin` against its range.

    Raises:
        ConfigError: one is outside it.
    """
    for entry in fields(margin):
        allowed = entry.metadata.get("range")
        if allowed is None:
            continue
        value = getattr(margin, entry.name)
        place = f"loss.options.{entry.name}={value:g} for {margin.name}"
        if allowed.degrees and 0 < value < 1:
            raise ConfigError(
                f"{place} is in degrees, and {value:g} looks like radians; "
                f"{math.degrees(value):.1f} degrees is the same "
                f"(allowed: {allowed.words}; default: {entry.default:g})"
            )
        if not allowed.lowest <= value <= allowed.highest:  # NaN fails the comparison
            raise ConfigError(f"{place} is not {allowed.words}; default: {entry.default:g}")
