"""Faults of values against a pydantic schema, in words for users."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import ValidationError

_repr = reprlib.Repr()  # of a value in a message, which may be huge
_repr.maxstring = _repr.maxother = 80

_MAPPINGS = ("model_type", "model_attributes_type", "dataclass_type", "dict_type", "mapping_type")


def faults_of(
    error: ValidationError,
    words: Mapping[str, Callable[[str], str]] | None = None,
    hidden: Iterable[str] = (),
) -> list[tuple[str, str]]:
    """Each key that does not fit a schema, and a line about it: its value, and what is wrong.

    Args:
        error: of pydantic.
        words: what is wrong with a key, by pydantic's type of its error.
        hidden: keys that may hold secrets: their values, and those below, are not in the lines.
    """
    found = [
        (".".join(str(part) for part in item["loc"] if not _is_type(part)), item)
        for item in error.errors(include_url=False)
    ]
    wrong = {key for key, _ in found if key}
    lines: dict[tuple[str, str], list[str]] = {}  # the types of a value that may have several
    for key, item in found:
        if any(key[: dot.start()] in wrong for dot in re.finditer(r"\.", key)):
            continue  # a part of a value whose own line describes the values that are allowed
        is_hidden = any(f"{key}.".startswith(f"{above}.") for above in hidden)
        value = key if is_hidden else f"{key or 'the whole'}={_repr.repr(item['input'])}"
        begin, *expected = _fault(key, value, item, words or {})
        lines.setdefault((key, begin), []).extend(expected)
    return [
        (key, begin + " or ".join(dict.fromkeys(expected)))
        for (key, begin), expected in lines.items()
    ]


def _fault(key: str, value: str, item: Any, words: Mapping[str, Callable[[str], str]]) -> list[str]:
    """The line about a key; or its begin, and the values that a type of several allows."""
    kind, message = item["type"], f"{item['msg'][0].lower()}{item['msg'][1:]}"
    if kind in words:
        return [f"{key if kind == 'extra_forbidden' else value} {words[kind](key)}"]
    if kind == "json_invalid":
        return [message]
    if kind == "missing":
        return [f"{key} is missing"]
    if kind == "extra_forbidden":
        return [f"{key} is not a key"]
    if kind == "value_error":
        return [f"{value} {item['ctx']['error']}" if key else str(item["ctx"]["error"])]
    if kind == "literal_error":
        choices = item["ctx"]["expected"]
        named = re.findall(r"'([^']*)'", choices)
        close = difflib.get_close_matches(str(item["input"]), named, 1, 0.6)
        guess = f"; did you mean {close[0]}?" if close else ""
        return [f"{value} is not one of {choices}{guess}"]
    expected = message.removeprefix("input should be ")
    if kind in _MAPPINGS:
        expected = "a mapping, {key: value}"
    if kind == "tuple_type":  # of Python; the files have lists
        expected = expected.replace("tuple", "list")
    return [f"{value}: " + ("" if expected == message else "input should be "), expected]


def _is_type(part: int | str) -> bool:
    """True if a part of pydantic's location is one of several types of a value."""
    if not isinstance(part, str):
        return False
    return part in ("bool", "str", "int", "float") or "[" in part or part.startswith("constrained-")
