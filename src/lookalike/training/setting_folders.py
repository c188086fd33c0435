"""Folders where relative paths among a run's settings start: folders.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from lookalike import storage
from lookalike.config.config import Config
from lookalike.config.setting_paths import (
    PATH_SETTINGS,
    is_relative,
    located,
    located_value,
    paths_of,
)
from lookalike.data.readers.path_patterns import is_there
from lookalike.log import logger
from lookalike.run import FOLDERS, Run
from lookalike.storage import Place
from lookalike.training.remote_run import saved_config


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
        paths = _relative_paths(key, used, folders[0])
        if paths:
            found[key] = next((each for each in folders if _are_there(paths, each)), folders[0])
    storage.write_text(run.folders, json.dumps(found, indent=1) + "\n")


def used_config(run: str) -> Config | None:
    """Settings as a local or remote run used them, with its files `found_where_it_began`.

    None where there is no run. Raises as `saved_config` does.
    """
    used = saved_config(run)
    return None if used is None else found_where_it_began(used, used, folders_of(run))


def found_where_it_began(config: Config, used: Config, folders: Mapping[str, str]) -> Config:
    """`config` with absolute paths of files that are only in the folder where a run began.

    A relative path that the run `used` as well is looked for in the working folder, then in that
    of `folders`.
    """
    values = {}
    for key in PATH_SETTINGS:
        folder, value = folders.get(key), config.get(key)
        if folder is None or value != used.get(key):
            continue
        paths = _relative_paths(key, config, folder)
        if paths and not _are_there(paths, "") and _are_there(paths, folder):
            values[key] = located_value(key, value, folder)
    return config.with_values(values) if values else config


def as_written(config: Config, before: Config, folders: Mapping[str, str]) -> Config:
    """`config` with the run's own spelling of files that are `found_where_it_began`."""
    values = {
        key: before.get(key)
        for key in config.asked() & folders.keys()
        if key in PATH_SETTINGS
        and config.get(key) == located_value(key, before.get(key), folders[key])
    }
    return config.with_values(values) if values else config


def _relative_paths(key: str, config: Config, folder: str) -> list[str]:
    return [path for path in paths_of(key, config.get(key), folder) if is_relative(path)]


def _are_there(paths: list[str], folder: str) -> bool:
    return all(is_there(located(path, folder)) for path in paths)
