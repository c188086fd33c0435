"""The image folder: `photos/<class>/.../1.jpg`, as torchvision's ImageFolder reads it."""

from __future__ import annotations

import logging

from lookalike import storage
from lookalike.data.decoding.image_formats import ENOUGH
from lookalike.data.readers.annotation import (
    Annotation,
    AnnotationOptions,
    canonical_label,
    combined_error,
    has_control_characters,
    name_fault,
    quoted,
)
from lookalike.data.readers.skipped_files import OUTSIDE, SkipCounter, describe, images_among
from lookalike.data.record import Record, with_labels
from lookalike.data.record_table import RecordTable
from lookalike.errors import DataError

_log = logging.getLogger(__name__)


def read(annotation: Annotation) -> RecordTable:
    """The records of an image folder, in the order of their paths.

    The label is the name of the folder right below, however deep the image lies. Of a ZIP archive
    a single folder around all folders of classes is left out. Skipped files are counted by kind
    and logged.

    Raises:
        StorageError: the folder cannot be read.
        DataError: unusable names, or no images.
    """
    uri, options = annotation.uri, annotation.options
    source = annotation.name.rstrip("/") or "/"
    skips = SkipCounter()
    paths = images_among(
        storage.files_below(uri),
        lambda unclear: storage.read_starts([storage.join(uri, p) for p in unclear], ENOUGH),
        skips,
    )
    around = _folder_around(paths) if storage.is_archive(uri) else ""
    records = RecordTable()
    bad: list[str] = []
    for path in paths:
        name, slash, _ = path[len(around) :].partition("/")
        if not slash and options.labelled:
            skips.add(OUTSIDE, path, is_loss=True)
        elif has_control_characters(path) or (slash and not name.strip()):
            bad.append(path)
        else:
            labels = _labels(name, options) if slash else ("",)
            details = with_labels(None, labels)
            records.append(Record(storage.join(uri, path), labels[0], source, 0, None, details))
    found = skips.found()
    if bad:
        raise combined_error(bad, lambda path: f"{source}: {quoted(path)} {name_fault(path)}")
    if not records:
        beside = f" ({describe(found)})" if found else " (no files at all)"
        if not options.labelled:
            raise DataError(f"{source}: no images in this folder{beside}")
        raise DataError(
            f"{source}: no images in folders of their classes{beside}; expected <class>/<image>.jpg"
        )
    if found:
        level = logging.WARNING if any(each.is_loss for each in found) else logging.INFO
        _log.log(level, "%s: %s", source, describe(found))
    if options.skipped is not None:
        options.skipped.extend(found)
    return records


def _labels(name: str, options: AnnotationOptions) -> tuple[str, ...]:
    """The different labels in the name of a folder, in their order."""
    separator = options.label_separator
    parts = [name] if separator is None else [p.strip() for p in name.split(separator)]
    return tuple(dict.fromkeys(canonical_label(part) for part in parts if part)) or (name,)


def _folder_around(paths: list[str]) -> str:
    """The folder, with `/`, around all folders of classes (`zip -r photos.zip photos`), or ""."""
    first = paths[0].partition("/")[0] + "/" if paths else ""
    is_around = all(path.startswith(first) for path in paths)
    return first if is_around and any(path.count("/") > 1 for path in paths) else ""
