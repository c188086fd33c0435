"""The image folder: `photos/<class>/.../1.jpg`, as torchvision's ImageFolder reads it."""

from __future__ import annotations

import logging

from lookalike import storage
from lookalike.data.decoding.image_formats import ENOUGH
from lookalike.data.readers.annotation import all_bad, quoted, shortest, unusable, unusable_name
from lookalike.data.readers.reader_options import PLAIN, Reading
from lookalike.data.readers.skipped_files import OUTSIDE, Skips, describe, images_among
from lookalike.data.record import Record
from lookalike.errors import DataError

_log = logging.getLogger(__name__)


def read(uri: str, how: Reading = PLAIN) -> list[Record]:
    """The records of an image folder, in the order of their paths.

    The name of a folder right below `uri` is the label of all images in it, however deep they
    lie. Files without an image's suffix are images by their content. What is skipped is counted
    by kind and logged: hidden files and folders, files that are no images or of a kind that is
    not read, and images that belong to no class.

    Args:
        uri: the folder, local or remote; or a ZIP archive or a folder in one. A single folder
            around all the folders of an archive is no class.
        how: what to look for; images in no class's folder are skipped where labels are needed.

    Raises:
        StorageError: the folder cannot be read.
        DataError: unusable names (all reported together, the first ten in full), or no images.
    """
    source = storage.public(uri).rstrip("/") or "/"
    skips = Skips()
    paths = images_among(
        storage.files_below(uri),
        lambda unclear: storage.read_starts([storage.join(uri, p) for p in unclear], ENOUGH),
        skips,
    )
    around = _folder_around(paths) if storage.is_archive(uri) else ""
    records: list[Record] = []
    bad: list[str] = []
    labels: dict[str, str] = {}  # keeps one object a label
    for path in paths:
        name, slash, _ = path[len(around) :].partition("/")
        if not slash and how.labelled:
            skips.add(OUTSIDE, path, is_loss=True)
        elif unusable(path) or (slash and not name.strip()):
            bad.append(path)
        else:
            label = labels.setdefault(name, shortest(name)) if slash else ""
            records.append(Record(storage.join(uri, path), label, source, 0))
    found = skips.found()
    if bad:
        raise all_bad(bad, lambda path: f"{source}: {quoted(path)} {unusable_name(path)}")
    if not records:
        beside = f" ({describe(found)})" if found else " (no files at all)"
        if not how.labelled:
            raise DataError(f"{source}: no images in this folder{beside}")
        raise DataError(
            f"{source}: no images in folders of their classes{beside}; expected <class>/<image>.jpg"
        )
    if found:
        level = logging.WARNING if any(each.is_loss for each in found) else logging.INFO
        _log.log(level, "%s: %s", source, describe(found))
    if how.skipped is not None:
        how.skipped.extend(found)
    return records


def _folder_around(paths: list[str]) -> str:
    """The folder that an archive's folders of classes lie in, with `/`; "" where none is around.

    `zip -r photos.zip photos` makes one.
    """
    first = paths[0].partition("/")[0] + "/" if paths else ""
    is_around = all(path.startswith(first) for path in paths)
    return first if is_around and any(path.count("/") > 1 for path in paths) else ""
