"""Validation of JSON files by schemas with finite and bounded numbers."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from lookalike.errors import RunError
from lookalike.storage.schema_faults import faults_of

T = TypeVar("T")

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
        raise RunError(f"{place}: {faults_of(error)[0][1]}{fix and f'; {fix}'}") from None


@cache
def _adapter(schema: Any) -> Any:
    return TypeAdapter(schema)
