"""The folder of this user's cache."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from lookalike.storage.local_files import local_folder
from lookalike.storage.uri import public


def cache_folder() -> Path:
    """`$LOOKALIKE_CACHE`, else `lookalike` in the user's cache directory.

    Without a home it is in the temporary directory.
    """
    own, root = os.environ.get("LOOKALIKE_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return local_folder(own, "LOOKALIKE_CACHE")
    if root:
        return Path(root) / "lookalike"
    try:
        return Path.home() / ".cache" / "lookalike"
    except RuntimeError:  # no HOME, and no entry in the list of users
        return Path(tempfile.gettempdir()) / f"lookalike-{os.getuid()}"


def cache_entry(kind: str, uri: str, more: str = "") -> Path:
    """The folder of the cache for what belongs to `uri` and `more`."""
    name = public(uri).rstrip("/").rsplit("/", 1)[-1] or "run"
    digest = hashlib.sha256((uri.rstrip("/") + more).encode()).hexdigest()[:12]
    return cache_folder() / kind / f"{name}-{digest}"
