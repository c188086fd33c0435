"""Readers of annotations: one for each format, found by name or by content.

A reader is a function `read(annotation) -> records`. To add a format, write one and name it in
`READERS`.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from lookalike import storage
from lookalike.data import FORMAT_ALIASES
from lookalike.data.decoding.image_formats import IMAGE_SUFFIXES
from lookalike.data.readers import (
    csv_table,
    image_folder,
    image_list,
    itag,
    json_lines,
    parquet,
    record_io,
    shards,
)
from lookalike.data.readers.annotation import (
    DEFAULT,
    Annotation,
    AnnotationOptions,
    BadRows,
    decode_text,
)
from lookalike.data.readers.path_patterns import (
    expand_choices,
    expand_ranges,
    is_pattern,
    matches,
)
from lookalike.data.readers.streams import STANDARD_INPUT, is_stream, read_stream
from lookalike.data.record_table import RecordTable
from lookalike.errors import ConfigError, DataError

READERS: dict[str, Callable[[Annotation], RecordTable]] = {
    "image_list": image_list.read,
    "itag": itag.read,
    "csv": csv_table.read,
    "json": json_lines.read,
    "folder": image_folder.read,
    "webdataset": shards.read,
    "parquet": parquet.read,
    "recordio": record_io.read,
}
NOT_TEXT = frozenset(("folder", "webdataset", "parquet", "recordio"))
_BY_NAME = {
    "webdataset": shards.is_shards,
    "parquet": parquet.is_parquet,
    "recordio": record_io.is_record_io,
}
"""Formats that are known by the name of the file."""


def read_records(
    uri: str | Sequence[str], format: str = "auto", options: AnnotationOptions = DEFAULT
) -> RecordTable:
    """The records of an annotation, or of several one after the other.

    Args:
        uri: a file, plain or gzipped, a folder or a ZIP archive, tar shards, Parquet files, a
            RecordIO file, `-` for standard input, or a pattern of several of these
            (`path_patterns`).
        format: a key of `READERS` or of `FORMAT_ALIASES`. `auto` takes `.tar` for WebDataset
            shards, `.rec` for RecordIO, `.parquet`, `.arrow` and a folder of them for a table of
            images, any other folder for an image folder, a file that begins with `{` for an iTAG
            manifest or a table as JSON, one of columns (`csv_table`) for a table, and any other
            for an image list.
        options: how it is read.

    Raises:
        ConfigError: there is no such format.
        StorageError: it cannot be read.
        DataError: it holds bad rows, or no records, or is of another format.
    """
    name = FORMAT_ALIASES.get(format, format)
    if name != "auto" and name not in READERS:
        listed = ", ".join(["auto", *READERS, *FORMAT_ALIASES])
        raise ConfigError(f"data.format={format!r} is not one of {listed}")
    records = _read_all(_expand(uri), name, options)
    if not records and options.bad is not None:
        options.bad.raise_any()
    return records


def is_image_list(uri: str, format: str = "auto", options: AnnotationOptions = DEFAULT) -> bool:
    """True for a file with `path label` on each line.

    Raises:
        StorageError: it cannot be read.
    """
    name = FORMAT_ALIASES.get(format, format)
    if name != "auto":
        return name == "image_list"
    if is_stream(uri) or any(is_one(uri) for is_one in (*_BY_NAME.values(), storage.is_folder)):
        return False
    return _text_format(Annotation(uri, options)) == "image_list"


def _read_all(uris: Sequence[str], name: str, options: AnnotationOptions) -> RecordTable:
    if len(uris) == 1:
        return _read(uris[0], name, options)
    if name in ("auto", "parquet") and all(map(parquet.is_parquet, uris)):
        return parquet.read_files(uris, options)  # of one data set; their names give the splits
    bad = BadRows()
    records = RecordTable()
    for uri in uris:
        records.extend(_read(uri, name, replace(options, bad=bad)))
    options.report(bad)
    return records


def _expand(uri: str | Sequence[str]) -> list[str]:
    """All annotations that a name or several stand for."""
    uris: list[str] = []
    for place in [uri] if isinstance(uri, str) else uri:
        for one in expand_choices(os.fspath(place)):
            if not is_pattern(one):
                single = is_stream(one) or shards.is_shards(one) or parquet.is_parquet(one)
                uris += [one] if single else expand_ranges(one)
                continue
            found = matches(one, folders=True)
            image = next((name for name in found if name.lower().endswith(IMAGE_SUFFIXES)), None)
            if image is not None:
                raise DataError(
                    f"{storage.public(one)}: matches images, as {storage.public(image)}, where "
                    "lists or folders are expected; name the folder above them"
                )
            uris += found
    return uris


def _read(uri: str, name: str, options: AnnotationOptions) -> RecordTable:
    """The records of one annotation; `name` is `auto` or a key of `READERS`."""
    if is_stream(uri):
        if name in NOT_TEXT:
            raise ConfigError(f"data.format={name}, but {uri} can only be text")
        text = decode_text(read_stream(uri), STANDARD_INPUT)
        annotation = Annotation(STANDARD_INPUT, options, text)
        return READERS[_text_format(annotation) if name == "auto" else name](annotation)
    annotation = Annotation(uri, options)
    if name == "auto":
        name = next((kind for kind, is_one in _BY_NAME.items() if is_one(uri)), name)
    if name not in _BY_NAME:
        is_folder = storage.is_folder(uri)
        if name == "auto":
            name = "folder" if is_folder else _text_format(annotation)
        if is_folder != (name == "folder"):
            what = "a folder" if is_folder else "not a folder"
            raise DataError(
                f"{annotation.name} is {what}, but data.format={name}; leave data.format out"
            )
    return READERS[name](annotation)


def _text_format(annotation: Annotation) -> str:
    text, name, options = annotation.text, annotation.name, annotation.options
    begin = text[:4096].lstrip()
    if begin.startswith("{"):
        if json_lines.is_table(text, options):
            return "json"
        json_lines.refuse_one_object(text, name)
        return "itag"
    if begin.startswith("[") and name.lower().removesuffix(".gz").endswith(".json"):
        return "json"
    if csv_table.detect_layout(annotation) is not None:
        return "csv"
    for column in ("path", "label"):
        if (asked := getattr(options, f"{column}_column")) is not None:
            raise DataError(
                f"{name}:1: no first line with names of columns, but data.{column}_column "
                f"(--{column}-column) is {asked!r}; leave it out for a list of path and label"
            )
    return "image_list"
