"""Options of augmentations: what each may be, and the one line that says so."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field, fields
from typing import TYPE_CHECKING, Any

from lookalike.errors import ConfigError

if TYPE_CHECKING:
    from lookalike.data.augmentations.augmentation import Augmentation

Check = Callable[[Any], Any]
"""Gives the value to use, or raises a ValueError that says in words what the option takes."""


def option(default: Any, check: Check) -> Any:
    """A dataclass field of an augmentation, with its own check."""
    return field(default=default, metadata={"check": check})


def number(default: float, words: str, lowest: float, highest: float = math.inf) -> Any:
    """A field of at least `lowest` and at most `highest`, which `words` say."""
    return option(default, lambda value: _number(value, words, lowest, highest))


def probability(default: float) -> Any:
    """A field from 0 to 1."""
    return number(default, "a probability, 0 to 1", 0, 1)


def whole(default: int, words: str, lowest: int, highest: int) -> Any:
    """A field of a whole number of at least `lowest` and at most `highest`."""

    def check(value: Any) -> int:
        if _number(value, words, lowest, highest) != int(value):
            raise ValueError(words)
        return int(value)

    return option(default, check)


def span(default: tuple[float, float], words: str, lowest: float, highest: float = math.inf) -> Any:
    """A field of two numbers in order, both within the bounds."""

    def check(value: Any) -> tuple[float, float]:
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise ValueError(words)
        low, high = (_number(part, words, lowest, highest) for part in value)
        if low > high:
            raise ValueError(words)
        return low, high

    return option(default, check)


def check_options(augmentation: Augmentation) -> None:
    """Check every option and bring it to its type.

    Raises:
        ConfigError: one is not what it takes.
    """
    for entry in fields(augmentation):
        value = getattr(augmentation, entry.name)
        try:
            checked = entry.metadata["check"](value)
        except ValueError as error:
            raise ConfigError(
                f"data.augment: {augmentation.name}.{entry.name}={value!r} is not {error}; "
                f"default: {entry.default}"
            ) from None
        object.__setattr__(augmentation, entry.name, checked)


def _number(value: Any, words: str, lowest: float, highest: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(words)
    if not lowest <= value <= highest:  # NaN fails the comparison
        raise ValueError(words)
    return float(value)
