"""The folder of this user's cache."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """`$LOOKALIKE_CACHE`, else `lookalike` in the user's cache directory."""
    own = os.environ.get("LOOKALIKE_CACHE")
    if own:
        return Path(own).expanduser()
    return user_cache()


def user_cache() -> Path:
    """`lookalike` in the user's cache directory; without a home, in the temporary directory."""
    root = os.environ.get("XDG_CACHE_HOME")
    if root:
        return Path(root) / "lookalike"
    try:
        return Path.home() / ".cache" / "lookalike"
    except RuntimeError:  # no HOME, and no entry in the list of users
        return Path(tempfile.gettempdir()) / f"lookalike-{os.getuid()}"
