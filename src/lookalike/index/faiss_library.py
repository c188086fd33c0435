"""The faiss library, and its structures as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lookalike.errors import MissingExtraError, RunError
from lookalike.index.file_digests import FIX


def faiss() -> Any:
    """The library.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise MissingExtraError("faiss-cpu", "search") from None
    return faiss


def write(structure: Any, file: Path) -> None:
    """Write a structure of faiss to a file."""
    try:
        faiss().write_index(structure, str(file))
    except RuntimeError as error:  # of C++, with the reason in many words
        raise OSError(str(error).strip().splitlines()[-1][-120:]) from None


def read(file: Path) -> Any:
    """The structure that `write` wrote.

    Raises:
        MissingExtraError: faiss is not installed.
        FileNotFoundError: a writer has replaced the file.
        RunError: it is damaged.
    """
    library = faiss()
    if not file.exists():
        raise FileNotFoundError(file)
    try:
        return library.read_index(str(file))
    except RuntimeError:
        raise RunError(f"{file}: damaged; {FIX}") from None
