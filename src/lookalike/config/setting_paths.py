"""Settings whose value names files or folders."""

from __future__ import annotations

import os
from typing import Any

from lookalike import storage
from lookalike.data.classes import names_class_file
from lookalike.data.readers.annotation import names_file

INPUTS = (
    "data.train", "data.val", "data.image_root", "data.classes", "data.hierarchy", "data.weights",
    "model.pretrained", "train.recipe", "train.start_from", "model.backbone",
)  # fmt: skip
"""Settings of what a training reads."""

PATH_SETTINGS = (*INPUTS, "data.cache", "train.cache_features")
"""Settings of what a training reads, and of folders that runs share; `run.output` is neither."""

_BACKBONE_FOLDER = "local-dir:"
_RECIPES = ("auto", "component")


def paths_of(key: str, value: Any, folder: str = "") -> list[str]:
    """The paths and URIs that the value of a setting names, as written; empty for other values.

    Args:
        folder: where relative paths start; the working folder by default.
    """
    if key not in PATH_SETTINGS:
        return []
    if key in ("data.train", "data.val") and isinstance(value, (list, tuple)):
        return [each for each in value if isinstance(each, str)]
    if not isinstance(value, str):
        return []
    if key == "model.backbone":
        is_folder = value.startswith(_BACKBONE_FOLDER)
        return [value.removeprefix(_BACKBONE_FOLDER)] if is_folder else []
    if key in ("data.hierarchy", "data.weights") and not names_file(value):
        return []  # columns of a table
    if key == "data.classes" and not names_class_file(located(value, folder)):
        return []  # names with commas between
    return [] if key == "train.recipe" and value in _RECIPES else [value]


def located(path: str, folder: str) -> str:
    """The path where a relative one starts at `folder`, "" for the working folder."""
    if not folder or storage.is_remote(path):
        return path
    return os.path.join(folder, storage.local_path(path))


def located_value(key: str, value: Any, folder: str) -> Any:
    """The value of a setting with its relative paths made absolute: they start at `folder`."""
    full = {
        path: located(path, folder) for path in paths_of(key, value, folder) if is_relative(path)
    }
    if key == "model.backbone":
        full = {_BACKBONE_FOLDER + path: _BACKBONE_FOLDER + there for path, there in full.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(full.get(each, each) for each in value)
    return full.get(value, value)


def is_relative(path: str) -> bool:
    """True for a path of this machine that is not absolute."""
    return not storage.is_remote(path) and not os.path.isabs(storage.local_path(path))
