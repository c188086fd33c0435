"""Keywords of a command that belong together, as its TypedDicts name them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any


def split_keywords(
    command: Callable[..., Any], given: Mapping[str, Any], *groups: type
) -> list[dict[str, Any]]:
    """The keywords of each TypedDict, out of all that `command` was given beside its own.

    Raises:
        TypeError: a keyword is in none of them, as Python says it of a function's own.
    """
    known = [keyword for group in groups for keyword in group.__annotations__]
    for keyword in given:
        if keyword not in known:
            own = list(inspect.signature(command).parameters)[:-1]  # the last one takes the rest
            close = difflib.get_close_matches(keyword, [*own, *known], 1)
            name = command.__name__
            raise TypeError(
                f"{name}() got an unexpected keyword argument {keyword!r}; "
                + (f"did you mean {close[0]!r}?" if close else f"see help(lookalike.{name})")
            )
    return [{k: v for k, v in given.items() if k in group.__annotations__} for group in groups]
