"""The folder of this user's cache."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$LOOKALIKE_CACHE`, else `lookalike` in the user's cache directory."""
    own = os.environ.get("LOOKALIKE_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lookalike"
