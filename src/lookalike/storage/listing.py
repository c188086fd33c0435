"""The objects of a bucket as files in folders, which object storage has only as parts of keys."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

PAGE = 1000
"""Keys in one answer: the most that S3 and OSS give."""


class StoredObject(NamedTuple):
    """An object in a bucket."""

    key: str
    size: int
    tag: str
    modified: Any


Lister = Callable[[str, int], Iterable[StoredObject]]
"""(prefix, page size) -> all objects whose key begins with the prefix, in order."""


def sizes_below(objects: Lister, key: str) -> dict[str, int]:
    """The size of each object below a folder, by its relative path; {} without such a bucket."""
    folder = _prefix(key)
    try:
        return {
            found.key.removeprefix(folder): found.size
            for found in objects(folder, PAGE)
            if not found.key.endswith("/")  # what consoles write to show an empty folder
        }
    except FileNotFoundError:
        return {}


def has_below(objects: Lister, key: str) -> bool:
    """True if any object is below a folder."""
    try:
        return any(True for _ in objects(_prefix(key), 1))
    except FileNotFoundError:
        return False


def _prefix(key: str) -> str:
    """The beginning of all keys below `key`; of the whole bucket, nothing."""
    return key if not key or key.endswith("/") else f"{key}/"
