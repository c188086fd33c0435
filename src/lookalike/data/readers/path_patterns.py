"""Several files in one name: `{a,b}`, `*`, `?` and `[...]`, on this machine and in storage."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence

from lookalike import storage
from lookalike.errors import DataError

_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")


def choices(place: str) -> list[str]:
    """The names that `{a,b}` in a name stands for, in their order; a file of that name is itself.

    Ranges of numbers, `{00..09}`, are `lookalike.data.readers.shards.expanded`'s.
    """
    found = _CHOICE.search(place)
    if found is None or (not storage.is_remote(place) and storage.exists(place)):
        return [place]
    before, after = place[: found.start()], place[found.end() :]
    return [name for part in found[1].split(",") for name in choices(before + part + after)]


def shown(places: str | Sequence[str] | None) -> str:
    """One place or several, as messages name them: without secrets."""
    if places is None or isinstance(places, str):
        return storage.public(places or "")
    return ", ".join(map(storage.public, places))


def is_pattern(place: str) -> bool:
    """Whether a name has `*`, `[` or (on this machine) `?`, and is no file or folder itself."""
    if storage.is_remote(place):
        return any(mark in storage.split_query(place)[0] for mark in "*[")
    return glob.has_magic(_path(place)) and not storage.exists(place)


def matches(place: str, *, folders: bool = False) -> list[str]:
    """What fits a pattern, in order: files, and with `folders` those of this machine too.

    Raises:
        DataError: nothing does.
        StorageError: the storage cannot be listed.
    """
    if storage.is_remote(place):
        if place.startswith(("http://", "https://")):
            raise DataError(
                f"{storage.public(place)}: a web server does not list its files; name each of them"
            )
        found = _in_storage(place)
    else:
        everything = sorted(glob.glob(_path(place), recursive=True))
        found = [name for name in everything if folders or os.path.isfile(name)]
    if not found:
        raise DataError(f"{storage.public(place)}: no images or lists fit this pattern")
    return found


def _path(place: str) -> str:
    return storage.local_path(place)


def _in_storage(place: str) -> list[str]:
    """The files of object storage that a pattern fits, in order."""
    name, query = storage.split_query(place)
    fixed = re.split(r"[*\[]", name, maxsplit=1)[0].rsplit("/", 1)[0]
    rest = name[len(fixed) + 1 :]
    fits = re.compile(_pattern(rest), re.DOTALL)
    below = fixed + query
    return [
        storage.join(below, path) for path in storage.files_below(below) if fits.fullmatch(path)
    ]


def _pattern(text: str) -> str:
    """A pattern of paths as a regular expression; as `glob`, it leaves out hidden files."""
    parts = []
    for piece in re.split(r"(\*\*/|\*\*|\*|\[[^\]]*\])", text):
        if piece == "**/":
            parts.append(r"(?:[^/.][^/]*/)*")
        elif piece == "**":
            parts.append(".*")
        elif piece == "*":
            parts.append(
                "[^/]*" if parts and not parts[-1].endswith(("/", ")*")) else r"(?!\.)[^/]*"
            )
        elif piece[:1] == "[" and piece[-1:] == "]":
            parts.append("[" + piece[1:-1].replace("\\", r"\\").replace("!", "^", 1) + "]")
        elif piece:
            parts.append(re.escape(piece))
    return "".join(parts)
