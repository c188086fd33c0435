"""Tables as Parquet or Arrow, and Hugging Face data sets on disk, which are made of them.

Images are paths, or are in the table: as bytes, or as Hugging Face's `{bytes, path}`, in which a
path counts where there are no bytes. Those in a
table are read in place where its file holds them as they are (`Dataset.save_to_disk`), and
unpacked once where it does not; see `lookalike.data.readers.embedded_images`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

from lookalike import storage
from lookalike.data.readers.annotation import (
    BadRows,
    Malformed,
    label_in,
    quoted,
    shortest,
    unusable,
)
from lookalike.data.readers.embedded_images import Batch, Tables, arrow_tables, parquet_tables
from lookalike.data.readers.json_lines import cell_text
from lookalike.data.readers.reader_options import PLAIN, Reading
from lookalike.data.readers.shards import expanded
from lookalike.data.readers.table_rows import Columns, image_places, whole_table
from lookalike.data.record import Member, Record
from lookalike.data.splits import split_name
from lookalike.errors import DataError

_ARROW = (".arrow", ".feather")
_SUFFIXES = (".parquet", *_ARROW)
# `train-00000-of-00004.parquet`, as the hub's files are called.
_SAMPLE = 200  # rows
_PART = re.compile(r"^([A-Za-z][\w.]*?)-\d{5}-of-\d{5}")


def is_parquet(uri: str) -> bool:
    """Whether `uri` is named like Parquet or Arrow, or is a folder of this machine of them."""
    if storage.split_query(uri)[0].lower().endswith(_SUFFIXES):
        return True
    return not storage.is_remote(uri) and bool(_in_folder(storage.local_path(uri)))


def read(uri: str | Sequence[str], how: Reading = PLAIN) -> list[Record]:
    """The records of Parquet or Arrow files; a record's line is its row, from 1.

    See `table_rows` for the columns. Labels of Hugging Face's ClassLabel are the names.
    A folder is one of `Dataset.save_to_disk`, of `DatasetDict.save_to_disk` (a folder for each
    split), or of files as the hub has them (`data/train-00000-of-00004.parquet`), whose names give
    the split where the table has none.

    Args:
        uri: a file, several with a range of numbers (`part-{000..099}.parquet`), or a folder of
            this machine; or several of these.
        how: what to look for.

    Raises:
        StorageError: a file cannot be read.
        DataError: bad rows (all reported together, the first ten in full), no rows, or a file
            that is neither Parquet nor Arrow.
    """
    places = [uri] if isinstance(uri, str) else list(uri)
    files: list[tuple[str, str | None]] = []
    for place in places:
        if storage.is_remote(place) or not os.path.isdir(storage.local_path(place)):
            files += [(name, _split_of(name)) for name in expanded(place)]
            continue
        found = _in_folder(storage.local_path(place))
        if not found:
            raise DataError(f"{place}: no .parquet or .arrow files in this folder")
        files += found
    if len({split for _, split in files}) == 1 and len(files) == 1:
        files = [(files[0][0], None)]  # one file for itself: its name is no claim
    records: list[Record] = []
    bad = BadRows()
    labels: dict[str, str] = {}
    for file, split in files:
        records += _records(file, split, labels, how, bad)
    return whole_table(records, bad, storage.public(places[0]), how)


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
    file: str, split: str | None, labels: dict[str, str], how: Reading, bad: BadRows
) -> Iterator[Record]:
    """The records of one file; complaints about its other rows go to `bad`."""
    source, place_of = storage.public(file), image_places(file, how)
    beside = _Beside(file, place_of, how)
    read = arrow_tables if file.lower().endswith(_ARROW) else parquet_tables
    tables = read(file, how.path_column)
    names = tables.schema.names
    batches = iter(tables.batches)
    try:
        first = next(batches, None)
        sample = [] if first is None else _sample(first[0])
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{source}: damaged in its first rows ({error})") from None
    columns = Columns(
        names,
        sample,
        source,
        how,
        image=None if tables.image is None else names.index(tables.image),
        column=lambda index: _column(read(file, how.path_column), index),
    )
    named = None if columns.label is None else _class_names(tables.schema, columns.label)
    details: dict[Any, Any] = {}
    whole = batches if first is None else chain([first], batches)
    for number, cells, member, path in _rows(whole, columns, source):
        try:
            label = ""
            if columns.label is not None:
                label = _label(cells[columns.label], named, how.labelled)
            said = columns.details([cell_text(cell) for cell in cells], split)
            if tables.image is None:
                place = place_of(cell_text(cells[columns.path]))
            elif member is not None:
                place = tables.images
            elif path is not None and path.strip():
                place = beside(path)
            else:
                raise Malformed("no image")
        except Malformed as error:
            bad.add(f"{source}:{number}", str(error))
        else:
            label = labels.setdefault(label, label)
            said = details.setdefault(said, said)
            yield Record(place, label, source, number, member, said)


class _Beside:
    """Where images lie that Hugging Face's tables name by a path, relative to the data set."""

    def __init__(self, file: str, place_of: Callable[[str], str], how: Reading) -> None:
        here = not storage.is_remote(file) and how.image_root is None
        folder = os.path.dirname(storage.local_path(file))
        # Tables lie in the folder `data` of the set, or in one of a split.
        self._folders = (folder, os.path.dirname(folder)) if here else ()
        self._place_of = place_of

    def __call__(self, path: str) -> str:
        if not os.path.isabs(path) and "://" not in path:
            for folder in self._folders:
                if os.path.exists(os.path.join(folder, path)):
                    return os.path.join(folder, path)
        return self._place_of(path)


def _rows(
    batches: Iterator[Batch], columns: Columns, source: str
) -> Iterator[tuple[int, list[Any], Member | None, str | None]]:
    """Number, cells, embedded image and path in its stead of each row."""
    number = 0
    try:
        for batch, members, paths in batches:
            lists = [
                batch.column(index).to_pylist() if index in columns.used else [None] * len(batch)
                for index in range(batch.num_columns)
            ]
            for row in range(len(batch)):
                number += 1
                member = None if members is None else members[row]
                path = None if paths is None else paths[row]
                yield number, [values[row] for values in lists], member, path
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{source}: damaged behind row {number} ({error})") from None


def _sample(batch: pa.RecordBatch) -> list[list[str]]:
    """The first rows as texts; what is no text is empty."""

    def shown(value: object) -> str:
        try:
            return cell_text(value)
        except Malformed:
            return ""

    some = batch.slice(0, _SAMPLE)
    lists = [column.to_pylist() for column in some.columns]
    return [[shown(values[row]) for values in lists] for row in range(len(some))]


def _column(tables: Tables, index: int) -> list[str]:
    """All values of a column, to compare them."""
    return [str(v) for batch, *_ in tables.batches for v in batch.column(index).to_pylist()]


def _label(value: Any, names: Sequence[str] | None, labelled: bool) -> str:
    """A label as text; the name of a ClassLabel."""
    if names is not None and isinstance(value, float) and value.is_integer():
        value = int(value)  # as pandas has integers among which one is missing
    if names is None or not isinstance(value, int):
        return label_in(cell_text(value), labelled)
    if not 0 <= value < len(names):
        raise Malformed(f"label {value} is not one of the {len(names):,} class names")
    return shortest(names[value].strip())


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
