"""Equal settings: of places, also those of another spelling."""

from __future__ import annotations

import os
from typing import Any

from lookalike import storage

_PLACES = (
    "model.pretrained", "model.backbone", "train.start_from", "train.recipe",
    "train.cache_features", "data.classes", "data.hierarchy", "data.weights", "data.image_root",
    "data.cache",
)  # fmt: skip
"""Settings whose value may be a file or a folder."""

_NAMES = ("auto", "component")
"""Recipes that are no files."""

_BACKBONE_FOLDER = "local-dir:"


def same_setting(key: str, one: Any, other: Any, folder: str = "") -> bool:
    """True for equal values, and for two spellings of one file or folder that is there.

    A relative path starts at the working folder, that of `other` at `folder` where that is given.
    """
    if one == other:
        return True
    if key not in _PLACES or not (isinstance(one, str) and isinstance(other, str)):
        return False
    if key == "model.backbone":
        if not (one.startswith(_BACKBONE_FOLDER) and other.startswith(_BACKBONE_FOLDER)):
            return False
        one, other = one.removeprefix(_BACKBONE_FOLDER), other.removeprefix(_BACKBONE_FOLDER)
    if key == "train.recipe" and (one in _NAMES or other in _NAMES):
        return False
    canonical = storage.canonicalizer()
    is_there = storage.is_remote(one) or os.path.exists(storage.local_path(one))
    if folder and not storage.is_remote(other):
        other = os.path.join(folder, storage.local_path(other))
    return is_there and canonical(one) == canonical(other)
