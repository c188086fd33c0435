"""Validation of JSON files by schemas with finite and bounded numbers."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from lookalike.errors import RunError

T = TypeVar("T")

_UNION_MEMBERS = ("constrained-", "tuple[", "list[", "dict[")

Share = Annotated[float, Field(ge=0, le=1)]
"""A share, 0 to 1."""

Cosine = Annotated[float, Field(ge=-1.01, le=1.01)]
"""A cosine, with tolerance for rounding."""

Amount = Annotated[float, Field(ge=0, le=1e300)]
"""A finite number that is not negative."""

Count = Annotated[int, Field(ge=0, le=2**53)]
"""A count, up to the largest exact integer of JSON."""


class Checked(BaseModel):
    """A JSON object with known keys and strictly typed values."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


def read_checked(text: str | bytes, schema: type[T], place: str, fix: str = "") -> T:
    """The object of `schema`, a pydantic model or a dataclass, that a JSON text holds.

    Raises:
        RunError: it holds something else; names `place`, the key, its value and what is wrong.
    """
    try:
        adapter: TypeAdapter[T] = _adapter(schema)  # type: ignore[arg-type]
        return adapter.validate_json(text)
    except ValidationError as error:
        raise RunError(f"{place}: {first_fault(error)}{fix and f'; {fix}'}") from None


@cache
def _adapter(schema: Any) -> Any:
    return TypeAdapter(schema)


def first_fault(error: ValidationError) -> str:
    """The first key that does not fit a schema, with its value and what is wrong."""
    item = error.errors(include_url=False)[0]
    what = item["msg"][0].lower() + item["msg"][1:]
    if item["type"] == "json_invalid":
        return what
    # Members of a union are named in the path of a key by their pydantic types.
    parts = [str(part) for part in item["loc"] if not str(part).startswith(_UNION_MEMBERS)]
    key = ".".join(parts) or "the whole"
    if item["type"] == "missing":
        return f"{key} is missing"
    value = repr(item["input"])
    return f"{key}={value if len(value) <= 60 else value[:57] + '...'}: {what}"
