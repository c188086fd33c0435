"""Augmentations by name, and reading of the list `data.augment`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from lookalike.data.augmentations.augmentation import Augmentation
from lookalike.data.augmentations.policies import RandAugment, TrivialAugment
from lookalike.data.augmentations.transforms import (
    AutoContrast,
    ColorJitter,
    Equalize,
    GaussianBlur,
    Grayscale,
    Invert,
    Posterize,
    RandomErasing,
    Rotation,
    Sharpness,
    Solarize,
    VerticalFlip,
)
from lookalike.errors import ConfigError

__all__ = ["AUGMENTATIONS", "Augmentation", "create_augmentations"]

# To add one, write a class that extends `Augmentation` and name it here.
AUGMENTATIONS: dict[str, type[Augmentation]] = {
    kind.name: kind
    for kind in (
        AutoContrast, ColorJitter, Equalize, GaussianBlur, Grayscale, Invert, Posterize,
        RandAugment, RandomErasing, Rotation, Sharpness, Solarize, TrivialAugment, VerticalFlip,
    )
}  # fmt: skip


def create_augmentations(
    entries: Iterable[str | Mapping[str, Mapping[str, Any] | None]],
    *,
    color_jitter: float = 0.0,
    grayscale: float = 0.0,
) -> tuple[Augmentation, ...]:
    """The augmentations of a list, in its order.

    Args:
        entries: names, or mappings of one name to its options.
        color_jitter: strength of brightness, contrast and saturation, changed before the rest.
        grayscale: probability of the loss of all colour, after that.

    Raises:
        ConfigError: there is no such name or option, or a value is not what the option takes.
    """
    first: list[Augmentation] = []
    if color_jitter:
        first.append(ColorJitter(1.0, color_jitter, color_jitter, color_jitter, 0.0))
    if grayscale:
        first.append(Grayscale(grayscale))
    return *first, *map(_create, entries)


def _create(entry: str | Mapping[str, Mapping[str, Any] | None]) -> Augmentation:
    name, options = (entry, None) if isinstance(entry, str) else next(iter(entry.items()))
    kind = AUGMENTATIONS.get(name)
    if kind is None:
        raise ConfigError(
            f"data.augment: {name!r} is not one of {', '.join(AUGMENTATIONS)}"
            + _hint(name, AUGMENTATIONS)
        )
    known = [field.name for field in fields(kind)]
    for key in options or {}:
        if key not in known:
            raise ConfigError(
                f"data.augment: {name} has no option {key!r}; it has {', '.join(known)}"
                + _hint(key, known)
            )
    return kind(**(options or {}))


def _hint(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), 1, 0.5)
    return f"; did you mean {close[0]}?" if close else ""
