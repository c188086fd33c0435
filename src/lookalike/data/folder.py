"""The image folder: `photos/<class>/.../1.jpg`, as torchvision's ImageFolder reads it."""

from __future__ import annotations

import logging

from lookalike import storage
from lookalike.data.annotation import IMAGE_SUFFIXES, all_bad, quoted, shortest, unusable
from lookalike.data.record import Record
from lookalike.errors import DataError

_log = logging.getLogger(__name__)


def read(uri: str, *, labelled: bool = True) -> list[Record]:
    """The records of an image folder, in the order of their paths.

    The name of a folder right below `uri` is the label of all images in it, however deep they
    lie. Files without an image's suffix, and files and folders whose name begins with a dot, are
    left out; other files that belong to no class are counted and logged.

    Args:
        uri: the folder, local or remote.
        labelled: images in no class's folder are left out; else their label is "".

    Raises:
        StorageError: the folder cannot be read.
        DataError: unusable names (all reported together, the first ten in full), or no images.
    """
    source = storage.public(uri).rstrip("/") or "/"
    records: list[Record] = []
    bad: list[str] = []
    labels: dict[str, str] = {}  # keeps one object a label
    outside = 0
    for path in storage.files_below(uri):
        name, slash, _ = path.partition("/")
        if not path.lower().endswith(IMAGE_SUFFIXES) or path[0] == "." or "/." in path:
            continue
        if not slash and labelled:
            outside += 1
        elif unusable(path) or (slash and not name.strip()):
            bad.append(path)
        else:
            label = labels.setdefault(name, shortest(name)) if slash else ""
            records.append(Record(storage.join(uri, path), label, source, 0))
    if bad:
        raise all_bad(
            bad, lambda path: f"{source}: {quoted(path)} holds a control character; rename it"
        )
    if not records and not labelled:
        raise DataError(
            f"{source}: no images in this folder; expected one of " + " ".join(IMAGE_SUFFIXES)
        )
    if not records:
        raise DataError(
            f"{source}: no images in folders of their classes ({outside:,} outside of any); "
            "expected <class>/<image>.jpg or another of " + " ".join(IMAGE_SUFFIXES)
        )
    if outside:
        _log.warning("%s: %d images are in no class's folder and are left out", source, outside)
    return records
