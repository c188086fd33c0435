"""SHA-256 of an index's files, so that damaged ones are found.

Small files are compared when they are read, large ones by `Index.check`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from lookalike.errors import RunError
from lookalike.storage.local_files import digest_of

FIX = "restore the index from a copy, or remove its folder and build it again"


def digest(content: Any) -> str:
    """The SHA-256 of bytes or of any buffer."""
    return hashlib.sha256(content).hexdigest()


def check(path: Path, content: Any, expected: str | None) -> None:
    """Compare a file's content with its SHA-256; files of older indexes have none.

    Raises:
        RunError: it is damaged.
    """
    if expected is not None and digest(content) != expected:
        raise RunError(f"{path}: damaged: its content is not what was written; {FIX}")


def check_file(path: Path, expected: str | None) -> None:
    """`check` of a file that is not in memory.

    Raises:
        RunError: it is damaged.
    """
    if expected is not None and digest_of(path) != expected:
        raise RunError(f"{path}: damaged: its content is not what was written; {FIX}")
