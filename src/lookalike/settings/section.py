"""What all sections of the settings share."""

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator

from lookalike.settings.spelling import spelled


class Section(BaseModel):
    """A part of a request: frozen, and without unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=()
    )

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
