"""Base of all losses on the embedding, and their parameters, each with its range."""

from __future__ import annotations

import math
from abc import ABC
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, cast

from lookalike.errors import ConfigError

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


class MetricLoss(ABC):
    """A loss on the embedding: formula and numbers, without weights and collectives.

    Attributes:
        name: the key in the registry, and in `loss.name`.
        margin: None where the loss has none.
        scale: of the logits; None where the loss has none.
        has_class_weights: whether embeddings are compared with class weights; else with each other.
        needs_positives: whether a batch must hold several images of a class.
        uses_length: whether the loss reads the length of the embedding, which the network must
            then be free to choose.
        uses_count: whether it reads the number of training images of the class.
        weight_norm: whether it reads the norm of the class weights.

    Raises:
        ConfigError: a parameter is out of its range.
    """

    name: ClassVar[str]
    margin: float | None
    scale: float | None
    has_class_weights: ClassVar[bool] = True
    needs_positives: ClassVar[bool] = False
    uses_length: ClassVar[bool] = False
    uses_count: ClassVar[bool] = False
    weight_norm: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for entry in fields(cast(Any, self)):
            allowed = entry.metadata.get("range")
            if allowed is None:
                continue
            value, default = getattr(self, entry.name), f"default: {entry.default:g}"
            key = f"options.{entry.name}"
            if entry.name in ("margin", "scale"):
                key, default = entry.name, f"recommended: {entry.default:g}"
            place = f"loss.{key}={value:g} for {self.name}"
            if allowed.degrees and 0 < value < 1:
                raise ConfigError(
                    f"{place} is in degrees, and {value:g} looks like radians; "
                    f"{math.degrees(value):.1f} degrees is the same "
                    f"(allowed: {allowed.words}; {default})"
                )
            if not allowed.lowest <= value <= allowed.highest:  # NaN fails the comparison
                raise ConfigError(f"{place} is not {allowed.words}; {default}")

    def warning(self) -> str | None:
        """A plain sentence about a setting that is known to train badly, or None."""
        return None
