"""Folders where relative paths among a run's settings start: folders.json."""

from __future__ import annotations

import json
from pathlib import Path

from lookalike import storage
from lookalike.config.config import Config
from lookalike.config.setting_paths import PATH_SETTINGS, is_relative, located, paths_of
from lookalike.log import logger
from lookalike.run import FOLDERS, Run
from lookalike.storage import Place


def folders_of(run: Place) -> dict[str, str]:
    """Folder by setting of a local or remote run; empty for a run of an earlier version."""
    place = storage.join(str(run), FOLDERS)
    content = storage.read_if_exists(place)
    try:
        found = {} if content is None else json.loads(content)
    except ValueError:
        found = None
    if isinstance(found, dict) and all(isinstance(folder, str) for folder in found.values()):
        return found
    logger.warning("%s: is broken, and skipped", storage.public(place))
    return {}


def write_folders(run: Run, used: Config, before: Config | None) -> None:
    """Write the folders of settings with relative paths.

    A path that the run had `before` keeps its folder, unless it is found in the working folder
    alone.
    """
    known, here = folders_of(run), str(Path.cwd())
    found: dict[str, str] = {}
    for key in PATH_SETTINGS:
        folders = [here]
        if before is not None and key in known and before.get(key) == used.get(key):
            folders = [known[key], here]
        paths = [path for path in paths_of(key, used.get(key), folders[0]) if is_relative(path)]
        if paths:
            found[key] = next((each for each in folders if _are_there(paths, each)), folders[0])
    storage.write_text(run.folders, json.dumps(found, indent=1) + "\n")


def _are_there(paths: list[str], folder: str) -> bool:
    return all(Path(storage.local_path(located(path, folder))).exists() for path in paths)
