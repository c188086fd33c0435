"""Names as people write them: in any case, with hyphens, blanks and underscores or without."""

from __future__ import annotations

from collections.abc import Iterable


def plain(text: str) -> str:
    """Letters and digits alone, in lower case: `AM-Softmax` and `am_softmax` are `amsoftmax`."""
    return "".join(filter(str.isalnum, text.lower()))


def spelled(text: str, choices: Iterable[str]) -> str:
    """The choice that differs from `text` in its spelling only; `text` where there is none."""
    choices = list(choices)
    if text in choices:
        return text
    found = [choice for choice in choices if plain(choice) == plain(text)]
    return found[0] if len(found) == 1 and plain(text) else text
