"""Base of the sections of the settings: frozen, checked, with names in any spelling."""

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

from lookalike.config.aliases import plain

_LARGEST = 3.4e38  # of a number in single precision, and the smallest that keeps its digits
_SMALLEST = 1.2e-38
_LARGEST_WHOLE = 2**63 - 1


def setting(
    default: Any, *, popular: bool = False, names: Mapping[str, str] | None = None, **rules: Any
) -> Any:
    """A field with more than a default and rules.

    Args:
        default: its default.
        popular: one of the twenty that help and docs show first.
        names: other names of its values -> the values.
        rules: of pydantic's `Field`.
    """
    extra: dict[str, Any] = {"popular": True} if popular else {}
    if names:
        extra["names"] = dict(names)
    return Field(default, json_schema_extra=extra, **rules)


def extra_of(field: FieldInfo) -> dict[str, Any]:
    """`popular` and `names` of a field, where it has them."""
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


class Section(BaseModel):
    """A part of a request: frozen, without unknown keys, and with numbers that can be used."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=(),
        allow_inf_nan=False,
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _values_by_any_name(cls, value: Any) -> Any:
        """`FP16` for `fp16`, `Repeat-Factor` for `repeat_factor`, `ArcFaceLoss` for `arcface`."""
        if not isinstance(value, Mapping):
            return value
        found = dict(value)
        for name, field in cls.model_fields.items():
            if isinstance(text := found.get(name), str):
                found[name] = _value_named(text, field)
        return found

    @field_validator("*", mode="before")
    @classmethod
    def _usable_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
        if any(isinstance(kind, type) and issubclass(kind, Section) for kind in kinds):
            return value  # checks its own
        check_numbers(value, booleans=not kinds & {int, float} or bool in kinds or Any in kinds)
        return value

    @field_validator("*")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        """Refuse an empty text, as of a shell variable that is not set."""
        if value == "" or (isinstance(value, list) and "" in value):
            raise ValueError("is empty; give a value, or leave the setting out")
        return value

    @field_validator("*")
    @classmethod
    def _usable_once_read(cls, value: Any) -> Any:
        """The same for numbers that were given as text: pydantic has made numbers of them."""
        if not isinstance(value, Section):
            check_numbers(value)
        return value


def _value_named(text: str, field: FieldInfo) -> str:
    """The value that a text means in any spelling or by another name; `text` for none."""
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    names = {choice: choice for choice in choices} | extra_of(field).get("names", {})
    if text in choices:
        return text
    return {plain(name): value for name, value in names.items()}.get(plain(text), text)


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation is made of."""
    inner = get_args(annotation)
    return {annotation}.union(*map(_kinds, inner)) if inner else {annotation}


def check_numbers(value: Any, *, booleans: bool = True) -> None:
    """Refuse numbers in a value, however nested, that are not finite or too large or small.

    Raises:
        ValueError: a text that follows the setting's name.
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
