"""SHA-256 of an exported file, stored in the file itself."""

from __future__ import annotations

import hashlib
import json
import mmap
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lookalike.errors import RunError

KEY = "sha256"
_BLANK = "0" * 64


def with_blank(about: Mapping[str, Any]) -> dict[str, Any]:
    """The description with 64 zeros as its digest, for `fill_in`."""
    return {**about, KEY: _BLANK}


def fill_in(path: Path) -> None:
    """Replace the zeros by the SHA-256 of the file with them."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        place = content.find(_field(_BLANK)) + len(_field(""))
        content[place : place + len(_BLANK)] = hashlib.sha256(content).hexdigest().encode()


def check(path: str | Path, about: Mapping[str, Any]) -> None:
    """Compare a file with the digest in its description; older files have none.

    Raises:
        RunError: it is damaged, or was changed after it was exported.
    """
    stated = about.get(KEY)
    if stated is None:
        return
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        memoryview(content) as view,
    ):
        place = content.find(_field(str(stated))) + len(_field(""))
        digest = hashlib.sha256(view[:place])
        digest.update(_BLANK.encode())
        digest.update(view[place + len(_BLANK) :])
    if digest.hexdigest() != stated:
        raise RunError(
            f"{path}: damaged, or changed after it was exported: its bytes are not those that its "
            "certificate is for; export it again"
        )


def _field(digest: str) -> bytes:
    return f'"{KEY}": "{digest}'.encode()


def of_entries(path: Path, *, but: str) -> str:
    """SHA-256 of names and contents of the files of a zip archive, except `but`."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(path) as archive:
        for name in sorted(name for name in archive.namelist() if not name.endswith(but)):
            digest.update(f"{name}\n".encode())
            with archive.open(name) as entry:
                while block := entry.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def add_entry(path: Path, name: str, about: Mapping[str, Any]) -> None:
    """Add a description to a zip archive with one folder, below it, with its files' digest."""
    described = {**about, KEY: of_entries(path, but=f"/{name}")}
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{root}/{name}", json.dumps(described))
