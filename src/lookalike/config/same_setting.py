"""Equal settings: of places, also those of another spelling."""

from __future__ import annotations

import filecmp
import os
from typing import Any

from lookalike import storage
from lookalike.config.setting_paths import located, paths_of


def same_setting(key: str, one: Any, other: Any, folder: str = "") -> bool:
    """True for equal values, and for two spellings of one file or folder.

    A relative path starts at the working folder, that of `other` at `folder` where that is given.
    The same relative path in both folders is the same too, as in a project that was moved or
    copied, unless it is a file of another content.
    """
    paths, others = paths_of(key, one), paths_of(key, other, folder)
    if one == other:
        moved = [located(path, folder) for path in others]
        return not any(map(_differ, paths, moved))
    if not paths or len(paths) != len(others):
        return False
    canonical = storage.canonicalizer()
    return all(
        canonical(path) == canonical(located(another, folder))
        for path, another in zip(paths, others, strict=True)
    )


def _differ(path: str, another: str) -> bool:
    """True for two files of this machine with different content."""
    if path == another or storage.is_remote(path):
        return False
    first, second = storage.local_path(path), storage.local_path(another)
    if not (os.path.isfile(first) and os.path.isfile(second)) or os.path.samefile(first, second):
        return False
    return not filecmp.cmp(first, second, shallow=False)


def settings_text(key: str, one: Any, other: Any, folder: str = "") -> tuple[str, str]:
    """Two different values as a message shows them; relative paths of one text in full."""
    if one == other and (paths := paths_of(key, one)):
        full = [storage.absolute(located(path, start)) for start in ("", folder) for path in paths]
        return ", ".join(full[: len(paths)]), ", ".join(full[len(paths) :])
    return setting_text(one), setting_text(other)


def setting_text(value: object) -> str:
    """Setting as a message shows it; a list and a tuple look the same."""
    if value is None:
        return "none"
    return str(list(value) if isinstance(value, tuple) else value)
