"""Images and their labels: annotations, decoding, augmentation, loading."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from lookalike import storage
from lookalike.data.readers import (
    csv_table,
    image_folder,
    image_list,
    itag,
    json_lines,
    parquet,
    shards,
)
from lookalike.data.readers.annotation import IMAGE_SUFFIXES, BadRows, decoded, read_text
from lookalike.data.readers.column_layout import layout_of
from lookalike.data.readers.path_patterns import choices, is_pattern, matches
from lookalike.data.readers.reader_options import PLAIN, Reading
from lookalike.data.readers.streams import STANDARD_INPUT, is_stream, read_stream
from lookalike.data.record import Record
from lookalike.errors import ConfigError, DataError


class ReadText(Protocol):
    """Reads an annotation that is text.

    `text` is its content, None to read it. `how` says what to look for.
    """

    def __call__(self, uri: str, text: str | None = None, how: Reading = PLAIN) -> list[Record]:
        """The records."""
        ...


class ReadOther(Protocol):
    """Reads any other annotation."""

    def __call__(self, uri: str, how: Reading = PLAIN) -> list[Record]:
        """The records."""
        ...


# To add a format, write one such function and name it here.
TEXTS: dict[str, ReadText] = {
    "image_list": image_list.read,
    "itag": itag.read,
    "csv": csv_table.read,
    "json": json_lines.read,
}
OTHERS: dict[str, ReadOther] = {
    "folder": image_folder.read,
    "webdataset": shards.read,
    "parquet": parquet.read,
}
SOURCES = (*TEXTS, *OTHERS)

# The component's names of them.
ALIASES = {"ClsSourceImageList": "image_list", "ClsSourceItag": "itag"}


def read_records(
    uri: str | Sequence[str], format: str = "auto", how: Reading = PLAIN
) -> list[Record]:
    """The records of an annotation, or of several one after the other.

    Args:
        uri: a file, plain or gzipped, a folder or a ZIP archive, tar shards, Parquet files, `-`
            for standard input, or a pattern that several of these fit (`path_patterns`).
        format: one of `SOURCES`, or a key of `ALIASES`; `auto` takes `.tar` for WebDataset shards,
            `.parquet`, `.arrow` and a folder of them for a table of images, any other folder for
            an image folder, a file that begins with `{` for an iTAG manifest or a table as JSON,
            one of columns (`column_layout`) for a table, and any other for an image list.
        how: what to look for, and what to do with bad rows.

    Raises:
        ConfigError: there is no such format.
        StorageError: it cannot be read.
        DataError: it holds bad lines, or no records, or is of another format.
    """
    name = ALIASES.get(format, format)
    if name != "auto" and name not in SOURCES:
        listed = ", ".join(["auto", *SOURCES, *ALIASES])
        raise ConfigError(f"data.format={format!r} is not one of {listed}")
    records = _read_all(_places(uri), name, how)
    if not records and how.bad is not None:
        how.bad.raise_any()
    return records


def _read_all(places: Sequence[str], name: str, how: Reading) -> list[Record]:
    if len(places) == 1:
        return _read(places[0], name, how)
    if name in ("auto", "parquet") and all(map(parquet.is_parquet, places)):
        return parquet.read(places, how)  # files of one data set, whose names give the splits
    bad = BadRows()
    records = [r for place in places for r in _read(place, name, replace(how, bad=bad))]
    how.settle(bad)
    return records


def _places(uri: str | Sequence[str]) -> list[str]:
    """All annotations that are meant, patterns resolved."""
    places: list[str] = []
    for place in [uri] if isinstance(uri, str) else uri:
        for one in choices(os.fspath(place)):
            if not is_pattern(one):
                single = is_stream(one) or shards.is_shards(one) or parquet.is_parquet(one)
                places += [one] if single else shards.expanded(one)
                continue
            found = matches(one, folders=True)
            image = next((name for name in found if name.lower().endswith(IMAGE_SUFFIXES)), None)
            if image is not None:
                raise DataError(
                    f"{storage.public(one)}: fits images, as {storage.public(image)}, where lists "
                    "or folders are expected; name the folder above them"
                )
            places += found
    return places


def _read(uri: str, name: str, how: Reading) -> list[Record]:
    """The records of one annotation; `name` is `auto` or one of `SOURCES`."""
    if is_stream(uri):
        if name in OTHERS:
            raise ConfigError(f"data.format={name}, but {uri} can only be text")
        text = decoded(read_stream(uri), STANDARD_INPUT)
        name = _text_format(text, STANDARD_INPUT, how) if name == "auto" else name
        return TEXTS[name](STANDARD_INPUT, text, how)
    if name == "auto" and shards.is_shards(uri):
        name = "webdataset"
    elif name == "auto" and parquet.is_parquet(uri):
        name = "parquet"
    if name not in ("webdataset", "parquet"):
        is_folder = storage.is_folder(uri)
        if name == "auto" and is_folder:
            name = "folder"
        if is_folder != (name == "folder"):
            what = "a folder" if is_folder else "no folder"
            raise DataError(
                f"{storage.public(uri)} is {what}, but data.format={name}; leave data.format out"
            )
    if name in OTHERS:
        return OTHERS[name](uri, how)
    text = read_text(uri)
    name = _text_format(text, storage.public(uri), how) if name == "auto" else name
    return TEXTS[name](uri, text, how)


def _text_format(text: str, name: str, how: Reading) -> str:
    begin = text[:4096].lstrip()
    if begin.startswith("{"):
        if json_lines.is_table(text, how):
            return "json"
        json_lines.refuse_one_object(text, name)
        return "itag"
    if begin.startswith("[") and name.lower().removesuffix(".gz").endswith(".json"):
        return "json"
    asked = [f"data.{n}" for n in ("path_column", "label_column") if getattr(how, n) is not None]
    if layout_of(text, name, how) is not None:
        return "csv"
    if asked:
        raise DataError(
            f"{name}:1: no first line with names of columns, but {asked[0]}="
            f"{how.path_column or how.label_column}; leave it out for a list of path and label"
        )
    return "image_list"
