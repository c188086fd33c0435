"""Setting that the recipe chose, with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lookalike.config.config import Config


@dataclass(frozen=True)
class Choice:
    """A setting that the recipe chose.

    Attributes:
        key: dotted.
        reason: at most 46 characters that fit a line of the console, and after a colon the facts.
    """

    key: str
    value: Any
    reason: str

    @property
    def short_reason(self) -> str:
        """The reason without its facts."""
        return self.reason.partition(": ")[0]


def with_choices(config: Config, choices: list[Choice]) -> Config:
    """Request with the values of the recipe."""
    return config.with_values({choice.key: choice.value for choice in choices})


def reasons(choices: list[Choice]) -> dict[str, str]:
    """Reason by dotted key."""
    return {choice.key: choice.reason for choice in choices}


def percent(part: float) -> str:
    """`43 %` of 0.43."""
    return f"{100 * part:.0f} %"
