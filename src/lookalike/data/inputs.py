"""Images named on a command line: folders, lists, tables, patterns, single files."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from lookalike import storage
from lookalike.data.decoding.image_formats import ENOUGH, IMAGE_SUFFIXES
from lookalike.data.readers import image_folder, parquet, read_records
from lookalike.data.readers.annotation import (
    BY_CONTENT,
    JOINER,
    UNLABELLED,
    Annotation,
    AnnotationOptions,
    ListLayout,
    combined_error,
    has_control_characters,
    name_fault,
    quoted,
)
from lookalike.data.readers.path_patterns import RANGE, expand_choices, is_pattern, matches
from lookalike.data.readers.skipped_files import SkipCounter, describe, images_among
from lookalike.data.readers.streams import is_stream
from lookalike.data.record import Record
from lookalike.data.record_table import RecordTable
from lookalike.errors import ConfigError, DataError
from lookalike.storage import Place

_log = logging.getLogger(__name__)

KnownLists = Callable[[str], RecordTable | None]
"""Reads a place whose form is known from elsewhere; None of another place."""

_LISTS = (
    *(".txt", ".lst", ".list", ".csv", ".tsv", ".json", ".jsonl", ".manifest"),
    *(".parquet", ".arrow", ".feather", ".tar", ".tgz"),
)


def places_of(name: str, places: object) -> list[str]:
    """One text or path, or several, as texts; a ConfigError, with the argument's name, else."""
    given = [places] if isinstance(places, (str, os.PathLike)) else places
    if isinstance(given, (bytes, bytearray, Mapping)) or not isinstance(given, Iterable):
        raise ConfigError(f"{name}={_shown(given)}: give a string or path, or several")
    found = [os.fspath(place) if isinstance(place, os.PathLike) else place for place in given]
    for place in found:
        if not isinstance(place, str) or not place:
            raise ConfigError(f"{name}: {_shown(place)} is not a text or path")
    return found


def place_of(name: str, place: object) -> str:
    """One text or path as a text; a ConfigError, with the argument's name, else."""
    if not isinstance(place, (str, os.PathLike)) or not os.fspath(place):
        raise ConfigError(f"{name}={_shown(place)}: give one path or URI")
    return str(os.fspath(place))


def optional_place(name: str, place: object) -> str | None:
    """`place_of`, and None for None."""
    return None if place is None else place_of(name, place)


def _shown(value: object) -> str:
    """A value in one short line; of an object that is no plain value, its type."""
    plain = isinstance(value, (str, bytes, int, float, list, tuple, dict, set, type(None)))
    text = repr(value) if plain else type(value).__name__
    return text if len(text) <= 80 else text[:77] + "..."


def no_lists(place: str) -> None:
    """`KnownLists` without any list."""


def read_places(
    places: Sequence[Place],
    known: KnownLists = no_lists,
    layout: ListLayout = BY_CONTENT,
    joiner: str = JOINER,
) -> RecordTable:
    """The images that `places` name, in the order of the places; labels where they are known.

    - A folder is searched whole, sorted, and so are a ZIP archive and a folder in one; an image's
      label is the name of the folder right below.
    - A file whose name ends as a list or a table does is read as one (`read_records`); so is one
      with `.gz` after that.
    - A name with `*` or `[...]` (or, on this machine, `?`) that is no file itself stands for the
      files that match it, sorted; `**` for any number of folders. They are images, by their suffix
      or else by content, or lists; lists beside images are skipped, and what is skipped is logged.
    - `{a,b}` stands for both names, one after the other.
    - `-` is a list on standard input.
    - Anything else is an image.

    A place that `known` reads is a list, whatever its name. `layout` is that of other lists. The
    labels of an image that has a list of them are one text, with `joiner` between.

    Raises:
        StorageError: a place cannot be read.
        DataError: a place does not exist or holds no image, or a list has bad lines.
    """
    options, records = replace(UNLABELLED.with_layout(layout), joiner=joiner), RecordTable()
    for place in map(str, places):
        for one in expand_choices(place):
            found = known(one)
            records.extend(_read(one, options) if found is None else found)
    if not records:
        raise DataError("no images: name folders, lists or images")
    odd = [record for record in records if has_control_characters(record.uri)]
    if odd:
        raise combined_error(odd, lambda record: f"{quoted(record.uri)} {name_fault(record.uri)}")
    return records


def _read(place: str, options: AnnotationOptions) -> RecordTable:
    remote = storage.is_remote(place)
    path = storage.local_path(place)
    if is_stream(place):
        return read_records(place, options=options)
    if _is_list(place):
        if not remote and not os.path.exists(path) and not RANGE.search(path):
            return _matching(place, options)
        return read_records(place, options=options)
    name = storage.split_query(place)[0] if remote else path
    is_named = name.lower().endswith(IMAGE_SUFFIXES) and "*" not in name
    is_named = is_named and (remote or not os.path.isdir(path))
    if not (is_named and (remote or storage.exists(place))):
        if storage.is_folder(place):
            return _folder(place, options)
        if remote or not storage.exists(place):
            return _matching(place, options)
    return RecordTable([Record(place, "", storage.public(place), 0)])


def _is_list(place: str) -> bool:
    name = storage.split_query(place)[0] if storage.is_remote(place) else place
    return name.lower().removesuffix(".gz").endswith(_LISTS) and "*" not in name


def _folder(place: str, options: AnnotationOptions) -> RecordTable:
    """The images of a folder; those inside of the tables of a folder that has no other images."""
    annotation = Annotation(place, options)
    try:
        return image_folder.read(annotation)
    except DataError:
        if not parquet.is_parquet(place):
            raise
    return parquet.read(annotation)


def _matching(place: str, options: AnnotationOptions) -> RecordTable:
    """The images of the files that match a pattern; a single image where it is none."""
    shown = storage.public(place)
    if not is_pattern(place):
        if storage.is_remote(place):
            # An object without a suffix: reading it decides.
            return RecordTable([Record(place, "", shown, 0)])
        raise DataError(f"{shown}: no such file or folder")
    found = matches(place)
    lists = [file for file in found if _is_list(file)]
    archives = {file for file in found if storage.is_archive(file)}
    skips = SkipCounter()
    # Below the fixed part of the pattern: hidden folders that it names itself count.
    fixed = len(re.split(r"[*?\[]", place, maxsplit=1)[0].rpartition("/")[0])
    below = {file: file[fixed:].lstrip("/") for file in found}
    others = {below[f]: f for f in found if not _is_list(f) and f not in archives}
    images = _images_of(others, skips)
    if images:  # texts and tables beside images are about them, as in a folder
        for file in lists:
            skips.add(os.path.splitext(file)[1].lower(), below[file])
    if skipped := skips.found():
        level = logging.WARNING if any(each.is_loss for each in skipped) else logging.INFO
        _log.log(level, "%s: %s", shown, describe(skipped))
    records = RecordTable()
    for file in found:
        if file in archives:
            records.extend(image_folder.read(Annotation(file, UNLABELLED)))
        elif file in images:
            records.append(Record(file, "", shown, 0))
        elif not images and _is_list(file):
            records.extend(read_records(file, options=options))
    if not records:
        raise DataError(f"{shown}: no images or lists match this pattern")
    return records


def _images_of(files: Mapping[str, str], skips: SkipCounter) -> set[str]:
    """The files that are images; keys are their paths below the fixed part of the pattern."""
    named = {file for file in files.values() if file.lower().endswith(IMAGE_SUFFIXES)}
    by_content = images_among(
        [path for path, file in files.items() if file not in named],
        lambda some: storage.read_starts([files[path] for path in some], ENOUGH),
        skips,
    )
    return named | {files[path] for path in by_content}
