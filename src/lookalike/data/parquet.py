"""Tables as Parquet or Arrow, and Hugging Face data sets on disk, which are made of them.

Images are paths, or are in the table: as bytes, or as Hugging Face's `{bytes, path}`. Those in a
table are read in place where its file holds them as they are (`Dataset.save_to_disk`), and
unpacked once where it does not; see `lookalike.data.embedded`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from lookalike import storage
from lookalike.data.annotation import all_bad, quoted, unusable
from lookalike.data.embedded import Tables, arrow_tables, parquet_tables
from lookalike.data.record import Member, Record
from lookalike.data.shards import expanded
from lookalike.data.splits import split_name
from lookalike.data.table import Columns, Malformed, checked_label, image_place
from lookalike.errors import DataError

_SUFFIXES = (".parquet", ".arrow")
# `train-00000-of-00004.parquet`, as the hub's files are called.
_PART = re.compile(r"^([A-Za-z][\w.]*?)-\d{5}-of-\d{5}")


def is_parquet(uri: str) -> bool:
    """Whether `uri` is named like Parquet or Arrow, or is a folder of this machine of them."""
    if storage.split_query(uri)[0].lower().endswith(_SUFFIXES):
        return True
    return not storage.is_remote(uri) and bool(_in_folder(storage.local_path(uri)))


def read(uri: str, *, labelled: bool = True) -> list[Record]:
    """The records of Parquet or Arrow files; a record's line is its row, from 1.

    See `lookalike.data.table` for the columns. Labels of Hugging Face's ClassLabel are the names.
    A folder is one of `Dataset.save_to_disk`, of `DatasetDict.save_to_disk` (a folder for each
    split), or of files as the hub has them (`data/train-00000-of-00004.parquet`), whose names give
    the split where the table has none.

    Args:
        uri: a file, several with a range of numbers (`part-{000..099}.parquet`), or a folder of
            this machine.
        labelled: an image without a label is a mistake; else its label is "".

    Raises:
        StorageError: a file cannot be read.
        DataError: bad rows (all reported together, the first ten in full), no rows, or a file
            that is neither Parquet nor Arrow.
    """
    files = [(name, _split_of(name)) for name in expanded(uri)]
    if not storage.is_remote(uri) and os.path.isdir(storage.local_path(uri)):
        files = _in_folder(storage.local_path(uri))
        if not files:
            raise DataError(f"{uri}: no .parquet or .arrow files in this folder")
    if len({split for _, split in files}) == 1 and len(files) == 1:
        files = [(files[0][0], None)]  # one file for itself: its name is no claim
    records: list[Record] = []
    bad: list[tuple[str, str]] = []
    labels: dict[str, str] = {}
    for file, split in files:
        for record in _records(file, split, labels, labelled):
            if isinstance(record, Record):
                records.append(record)
            else:
                bad.append(record)
    if bad:
        raise all_bad(bad, lambda item: f"{item[0]}: {item[1]}")
    if not records:
        raise DataError(f"{storage.public(uri)}: the table holds no rows")
    return records


def _in_folder(folder: str) -> list[tuple[str, str | None]]:
    """The tables below a folder, in order, with the splits that their places name."""
    found: list[tuple[str, str | None]] = []
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    for name in names:
        path = os.path.join(folder, name)
        if name.endswith(_SUFFIXES):
            found.append((path, _split_of(name)))
        elif name == "data" and os.path.isdir(path):
            found += _in_folder(path)
        elif os.path.exists(os.path.join(path, "dataset_info.json")):
            found += [(file, split_name(name)) for file, _ in _in_folder(path)]
    return found


def _split_of(path: str) -> str | None:
    match = _PART.match(os.path.basename(path))
    # Files of a `Dataset.save_to_disk` are all called data-00000-of-00001.arrow.
    return split_name(match[1]) if match and match[1] != "data" else None


def _records(
    file: str, split: str | None, labels: dict[str, str], labelled: bool
) -> Iterator[Record | tuple[str, str]]:
    """The records of one file; place and complaint in the stead of a bad one."""
    source, resolve = storage.public(file), storage.resolver(file)
    tables = arrow_tables(file) if file.lower().endswith(".arrow") else parquet_tables(file)
    columns = Columns(tables.schema.names, source, path=tables.image, labelled=labelled)
    names = None if columns.label is None else _class_names(tables.schema, columns.label)
    details: dict[Any, Any] = {}
    for number, cells, member in _rows(tables, columns, source):
        try:
            if columns.label is None or (cells[columns.label] is None and not labelled):
                label = ""
            elif cells[columns.label] is None:
                raise Malformed("no label")
            else:
                label = checked_label(_named(cells[columns.label], names))
            said = columns.details([_text(cell) for cell in cells], split)
            if tables.image is None:
                place = image_place(_text(cells[columns.path]), resolve)
            elif member is None:
                raise Malformed("no image")
            else:
                place = tables.images
        except Malformed as error:
            yield f"{source}:{number}", str(error)
        else:
            label = labels.setdefault(label, label)
            said = details.setdefault(said, said)
            yield Record(place, label, source, number, member, said)


def _rows(
    tables: Tables, columns: Columns, source: str
) -> Iterator[tuple[int, list[Any], Member | None]]:
    """Number, cells and embedded image of each row."""
    number = 0
    try:
        for batch, members in tables.batches:
            lists = [
                batch.column(index).to_pylist() if index in columns.used else [None] * len(batch)
                for index in range(batch.num_columns)
            ]
            for row in range(len(batch)):
                number += 1
                member = None if members is None else members[row]
                yield number, [values[row] for values in lists], member
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{source}: damaged behind row {number} ({error})") from None


def _text(value: Any) -> str:
    if isinstance(value, bytes | dict | list | tuple):
        raise Malformed(f"{quoted(str(value))} is neither a text nor a number")
    return "" if value is None else str(value)


def _named(value: Any, names: Sequence[str] | None) -> str:
    """A label as text; the name of a ClassLabel."""
    if names is None or not isinstance(value, int):
        return _text(value)
    if not 0 <= value < len(names):
        raise Malformed(f"label {value} is not one of the {len(names):,} class names")
    return names[value]


def _class_names(schema: pa.Schema, label: int) -> list[str] | None:
    """The names of a ClassLabel column, from Hugging Face's part of the schema's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[schema.names[label]]["names"]
    except (KeyError, TypeError, ValueError):
        return None  # not Hugging Face's, or a column without names
    if not isinstance(names, list) or not all(isinstance(n, str) and n.strip() for n in names):
        return None
    if any(map(unusable, names)):
        raise DataError(f"a class name among {quoted(str(names))} holds a control character")
    return names
