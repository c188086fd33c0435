"""Several files in one name: `{a,b}`, `{00..09}`, `*`, `?`, `[...]`, here and in storage."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence

from lookalike import storage
from lookalike.errors import DataError

_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def expand_choices(place: str) -> list[str]:
    """The names that `{a,b}` stands for, in their order; a file of exactly that name is itself."""
    found = _CHOICE.search(place)
    if found is None or (not storage.is_remote(place) and storage.exists(place)):
        return [place]
    before, after = place[: found.start()], place[found.end() :]
    return [name for part in found[1].split(",") for name in expand_choices(before + part + after)]


def expand_ranges(place: str) -> list[str]:
    """The names that `{0000..0099}` stands for; a DataError where the range is empty."""
    found = RANGE.search(place)
    if found is None:
        return [place]
    first, last = found.groups()
    if int(last) < int(first):
        raise DataError(f"{storage.public(place)}: the range {found[0]} is empty; turn it around")
    before, after = place[: found.start()], place[found.end() :]
    names = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
    return [file for name in names for file in expand_ranges(before + name + after)]


def shown(places: str | Sequence[str] | None) -> str:
    """One place or several, as messages name them: without secrets."""
    if places is None or isinstance(places, str):
        return storage.public(places or "")
    return ", ".join(map(storage.public, places))


def is_pattern(place: str) -> bool:
    """True for a name with `*`, `[` or (on this machine) `?` that is no file or folder itself."""
    if storage.is_remote(place):
        return any(mark in storage.split_query(place)[0] for mark in "*[")
    return glob.has_magic(storage.local_path(place)) and not storage.exists(place)


def is_there(place: str) -> bool:
    """True if each of the names that a local `place` stands for is a file or folder.

    Of a pattern, one match is enough.
    """
    for one in expand_choices(place):
        if storage.exists(one):
            continue
        if is_pattern(one):
            if next(glob.iglob(storage.local_path(one), recursive=True), None) is None:
                return False
            continue
        try:
            names = expand_ranges(one)
        except DataError:
            return False
        if names == [one] or not all(map(storage.exists, names)):
            return False
    return True


def matches(place: str, *, folders: bool = False) -> list[str]:
    """The files that match a pattern, in order; with `folders` those of this machine too.

    Raises:
        DataError: there are none.
        StorageError: the storage cannot be listed.
    """
    if storage.is_remote(place):
        if place.startswith(("http://", "https://")):
            raise DataError(
                f"{storage.public(place)}: a web server does not list its files; name each of them"
            )
        found = _in_storage(place)
    else:
        everything = sorted(glob.glob(storage.local_path(place), recursive=True))
        found = [name for name in everything if folders or os.path.isfile(name)]
    if not found:
        raise DataError(f"{storage.public(place)}: no images or lists match this pattern")
    return found


def _in_storage(place: str) -> list[str]:
    name, query = storage.split_query(place)
    fixed = re.split(r"[*\[]", name, maxsplit=1)[0].rsplit("/", 1)[0]
    try:
        regex = re.compile(_regex(name[len(fixed) + 1 :]), re.DOTALL)
    except re.error as error:
        raise DataError(f"{storage.public(place)}: not a pattern: {error}") from None
    below = fixed + query
    paths = storage.files_below(below)
    return [storage.join(below, path) for path in paths if regex.fullmatch(path)]


def _regex(pattern: str) -> str:
    """A pattern of paths as a regular expression; as in `glob`, hidden files do not match."""
    parts: list[str] = []
    for piece in re.split(r"(\*\*/|\*\*|\*|\[[^\]]*\])", pattern):
        if piece == "**/":
            parts.append(r"(?:[^/.][^/]*/)*")
        elif piece == "**":
            parts.append(".*")
        elif piece == "*":
            inside = parts and not parts[-1].endswith(("/", ")*"))
            parts.append("[^/]*" if inside else r"(?!\.)[^/]*")
        elif piece[:1] == "[" and piece[-1:] == "]":
            parts.append("[" + piece[1:-1].replace("\\", r"\\").replace("!", "^", 1) + "]")
        elif piece:
            parts.append(re.escape(piece))
    return "".join(parts)
