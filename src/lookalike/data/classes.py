"""The map label <-> class."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from lookalike import storage
from lookalike.data.readers.annotation import (
    BadRows,
    canonical_label,
    has_control_characters,
    quoted,
    read_text,
)
from lookalike.errors import DataError

_LISTED = 8  # class names in a message
_GUESSED = 5_000  # most class names among which the closest is searched: difflib is slow


@dataclass(frozen=True)
class Classes:
    """The map label <-> class: class i is called names[i]."""

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, label: str) -> bool:
        return canonical_label(label) in self.rows

    @cached_property
    def rows(self) -> dict[str, int]:
        """The class of each label, by its `canonical_label`."""
        return {canonical_label(name): row for row, name in enumerate(self.names)}

    def index(self, label: str) -> int:
        """The class of `label`; a DataError where it is none."""
        row = self.rows.get(canonical_label(label))
        if row is None:
            raise DataError(self.unknown(label))
        return row

    def unknown(self, label: str) -> str:
        """The message about a label that is no class: the choices, the closest one, the fix."""
        guess = ""
        if len(self) <= _GUESSED and len(label) <= 100:
            close = difflib.get_close_matches(label, self.names, n=1)
            guess = f" (did you mean {quoted(close[0])}?)" if close else ""
        return (
            f"label {quoted(label)} is not one of the {len(self):,} classes"
            f" ({listed(self.names)}); fix the line{guess} or extend data.classes"
        )

    def to_json(self) -> str:
        """The content of `classes.json`: `{"classes": [name of class 0, ...]}`."""
        return json.dumps({"classes": self.names}, ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, origin: str = "classes.json") -> Classes:
        """The classes that `to_json` wrote; a DataError, which names `origin`, for other text."""
        try:
            names = json.loads(text)["classes"]
        except (ValueError, RecursionError, TypeError, KeyError, IndexError):
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(
                f'{origin}: not a list of classes; expected {{"classes": ["name", ...]}}'
            )
        return cls(_distinct(names, lambda row: f"{origin}: class {row}"))


def names_class_file(text: str) -> bool:
    """True where the text of `data.classes` is a file, and not names with commas between."""
    return "://" in text or text.endswith(".txt") or os.path.isfile(storage.local_path(text))


def read_class_names(names_or_uri: str | Sequence[str]) -> tuple[str, ...]:
    """The class names of `data.classes`, in the order of their rows.

    A text is a file with one name a line if it is a URI, ends in `.txt` or is an existing file;
    otherwise names with commas between.

    Raises:
        StorageError: the file cannot be read.
        DataError: no names, an empty name or the same name twice.
    """
    if not isinstance(names_or_uri, str):
        return _distinct(names_or_uri, lambda row: f"data.classes: name {row + 1}")
    text = names_or_uri.strip()
    if not names_class_file(text):
        return _distinct(text.split(","), lambda row: f"data.classes: name {row + 1}")

    # A blank line between names is kept, and refused: dropping it would shift all rows below.
    lines = read_text(text).rstrip().split("\n")
    return _distinct(lines, lambda row: f"{storage.public(text)}:{row + 1}")


def _distinct(names: Iterable[str], place: Callable[[int], str]) -> tuple[str, ...]:
    """Stripped names; `place` gives the place of name i."""
    clean = tuple(name.strip() for name in names)
    if not any(clean):
        raise DataError(f"{place(0)}: no class names")
    first: dict[str, int] = {}
    bad = BadRows()
    for row, name in enumerate(clean):
        if not name:
            bad.add(place(row), "an empty class name; fill it in or remove it")
        elif has_control_characters(name):
            bad.add(place(row), f"{quoted(name)} holds a control character; remove it")
        elif first.setdefault(canonical_label(name), row) != row:
            same = first[canonical_label(name)]
            bad.add(place(row), f"{quoted(name)} is the name of class {same} already; rename one")
    bad.raise_any()
    return clean


def listed(names: Sequence[str]) -> str:
    """Names as messages show them: the first few, cut if they are long, and how many more."""
    shown = ", ".join(name if len(name) <= 40 else name[:37] + "..." for name in names[:_LISTED])
    return shown + (f", ... {len(names) - _LISTED:,} more" if len(names) > _LISTED else "")
