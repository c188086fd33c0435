"""What all sections of the settings share."""

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator

from lookalike.config.spelling import spelled

_LARGEST = 3.4e38  # of a number in single precision, and the smallest that keeps its digits
_SMALLEST = 1.2e-38
_LARGEST_WHOLE = 2**63 - 1


class Section(BaseModel):
    """A part of a request: frozen, without unknown keys, and with numbers that can be used."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=(),
        allow_inf_nan=False,
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _choices_in_any_spelling(cls, value: Any) -> Any:
        """`FP16` for `fp16`, `Repeat-Factor` for `repeat_factor`."""
        if not isinstance(value, Mapping):
            return value
        found = dict(value)
        for name, field in cls.model_fields.items():
            text = found.get(name)
            if isinstance(text, str) and get_origin(field.annotation) is Literal:
                found[name] = spelled(text, get_args(field.annotation))
        return found

    @field_validator("*", mode="before")
    @classmethod
    def _usable_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Numbers are finite and fit into the types that compute with them; yes is none."""
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
        if any(isinstance(kind, type) and issubclass(kind, Section) for kind in kinds):
            return value  # looks at its own
        check_numbers(value, booleans=not kinds & {int, float} or bool in kinds or Any in kinds)
        return value

    @field_validator("*")
    @classmethod
    def _usable_once_read(cls, value: Any) -> Any:
        """The same for numbers that were given as text: pydantic has made numbers of them."""
        if not isinstance(value, Section):
            check_numbers(value)
        return value


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation is made of."""
    inner = get_args(annotation)
    return {annotation}.union(*map(_kinds, inner)) if inner else {annotation}


def check_numbers(value: Any, *, booleans: bool = True) -> None:
    """See that all numbers in a value, however nested, are finite and of a usable size.

    Args:
        value: as it was given.
        booleans: whether yes and no are allowed.

    Raises:
        ValueError: one is not; says so after its name.
    """
    if isinstance(value, Mapping):
        for inner in value.values():
            check_numbers(inner, booleans=booleans)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            check_numbers(inner, booleans=booleans)
    elif isinstance(value, bool):
        if not booleans:
            raise ValueError("is yes or no; write a number")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("is not a finite number")
        if abs(value) > _LARGEST or 0 < abs(value) < _SMALLEST:
            raise ValueError(f"is out of the range of numbers, {_SMALLEST:g} to {_LARGEST:g}")
    elif isinstance(value, int) and abs(value) > _LARGEST_WHOLE:
        raise ValueError(f"is too large; whole numbers go to {_LARGEST_WHOLE}")
