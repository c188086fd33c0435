"""Tables as Parquet or Arrow, and Hugging Face data sets on disk, which are made of them.

Images are paths, or lie in the table: as bytes, or as Hugging Face's `{bytes, path}`, in which a
path counts where there are no bytes. See `embedded_images`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

from lookalike import storage
from lookalike.data.readers.annotation import (
    Annotation,
    AnnotationOptions,
    BadRows,
    MalformedRow,
    canonical_label,
    has_control_characters,
    parse_labels,
    quoted,
)
from lookalike.data.readers.embedded_images import (
    EmbeddedRow,
    Table,
    hugging_face_feature,
    open_arrow,
    open_parquet,
)
from lookalike.data.readers.path_patterns import expand_ranges
from lookalike.data.readers.table_columns import SAMPLE, Columns
from lookalike.data.readers.table_rows import (
    ParsedRow,
    cell_text,
    finish_table,
    image_resolver,
    labels_text,
    row_records,
)
from lookalike.data.record import Record
from lookalike.data.record_table import RecordTable
from lookalike.data.splits import split_name
from lookalike.errors import DataError

_ARROW = (".arrow", ".feather")
_SUFFIXES = (".parquet", *_ARROW)
_PART = re.compile(r"^([A-Za-z][\w.]*?)-\d{5}-of-\d{5}")  # `train-00000-of-00004.parquet`


def is_parquet(uri: str) -> bool:
    """True for a name of Parquet or Arrow, and for a folder of this machine with such files."""
    if storage.split_query(uri)[0].lower().endswith(_SUFFIXES):
        return True
    return not storage.is_remote(uri) and bool(_in_folder(storage.local_path(uri)))


def read(annotation: Annotation) -> RecordTable:
    """The records of a file, of several (`part-{000..099}.parquet`) or of a folder."""
    return read_files([annotation.uri], annotation.options)


def read_files(uris: Sequence[str], options: AnnotationOptions) -> RecordTable:
    """The records of the files of one data set; a record's line is its row, from 1.

    A folder is one of `Dataset.save_to_disk`, of `DatasetDict.save_to_disk` (a folder for each
    split), or of files as the hub has them (`data/train-00000-of-00004.parquet`), whose names give
    the split where the table has none. Labels of a ClassLabel are its names.

    Raises:
        StorageError: a file cannot be read.
        DataError: bad rows, no rows, or a file that is neither Parquet nor Arrow.
    """
    files: list[tuple[str, str | None]] = []
    for uri in uris:
        if storage.is_remote(uri) or not os.path.isdir(storage.local_path(uri)):
            files += [(name, _split_of(name)) for name in expand_ranges(uri)]
            continue
        found = _in_folder(storage.local_path(uri))
        if not found:
            raise DataError(f"{uri}: no .parquet or .arrow files in this folder")
        files += found
    if len(files) == 1:
        files = [(files[0][0], None)]  # the name of a single file gives no split
    bad = BadRows()
    records = RecordTable(
        record
        for file, split in files
        for record in _file_records(Annotation(file, options), split, bad)
    )
    return finish_table(Annotation(uris[0], options), records, bad)


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


def _file_records(annotation: Annotation, split: str | None, bad: BadRows) -> Iterator[Record]:
    file, source, options = annotation.uri, annotation.name, annotation.options
    open_table = open_arrow if file.lower().endswith(_ARROW) else open_parquet
    table = open_table(file, options.path_column)
    names = table.schema.names
    batches = iter(table.batches)
    try:
        first = next(batches, None)
        sample = [] if first is None else _sample(first[0])
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{source}: damaged in its first rows ({error})") from None
    columns = Columns(
        names,
        sample,
        source,
        options,
        image=None if table.image is None else names.index(table.image),
        cells=lambda index: _column(open_table(file, options.path_column), index),
    )
    class_names = None if columns.label is None else _class_names(table.schema, columns.label)
    resolve = image_resolver(annotation)
    resolve_beside = _beside(annotation, resolve)

    def parse(row: tuple[list[Any], EmbeddedRow]) -> ParsedRow:
        cells, (member, path) = row
        labels: tuple[str, ...] = ("",)
        if columns.label is not None:
            labels = _labels(cells[columns.label], class_names, options)
            cells[columns.label] = None
        details = columns.details_of([cell_text(cell) for cell in cells], labels, split)
        if table.image is None:
            uri = resolve(cell_text(cells[columns.path]))
        elif member is not None:
            uri = table.images
        elif path is not None and path.strip():
            uri = resolve_beside(path)
        else:
            raise MalformedRow("no image")
        return ParsedRow(uri, labels[0], details, member)

    whole = batches if first is None else chain([first], batches)
    rows = enumerate(_rows(whole, columns, source), 1)
    return row_records(source, rows, parse, bad)


def _beside(annotation: Annotation, resolve: Callable[[str], str]) -> Callable[[str], str]:
    """The resolver of paths in the stead of bytes, which are relative to the data set."""
    here = not storage.is_remote(annotation.uri) and annotation.options.image_root is None
    folder = os.path.dirname(storage.local_path(annotation.uri))
    # Tables lie in the folder `data` of the set, or in one of a split.
    folders = (folder, os.path.dirname(folder)) if here else ()

    def place(path: str) -> str:
        if not os.path.isabs(path) and "://" not in path:
            for folder in folders:
                if os.path.exists(os.path.join(folder, path)):
                    return os.path.join(folder, path)
        return resolve(path)

    return place


def _rows(
    batches: Iterator[Any], columns: Columns, source: str
) -> Iterator[tuple[list[Any], EmbeddedRow]]:
    """Cells and embedded image of each row."""
    number = 0
    try:
        for batch, images in batches:
            lists = [
                batch.column(index).to_pylist() if index in columns.used else [None] * len(batch)
                for index in range(batch.num_columns)
            ]
            for row in range(len(batch)):
                number += 1
                yield [values[row] for values in lists], images[row] if images else (None, None)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{source}: damaged after row {number} ({error})") from None


def _sample(batch: pa.RecordBatch) -> list[list[str]]:
    """The first rows as texts; what is no text is empty."""

    def shown(value: object) -> str:
        try:
            return cell_text(value)
        except MalformedRow:
            return ""

    lists = [map(shown, column.to_pylist()) for column in batch.slice(0, SAMPLE).columns]
    return list(map(list, zip(*lists, strict=True)))


def _column(table: Table, index: int) -> list[str]:
    return [str(v) for batch, _ in table.batches for v in batch.column(index).to_pylist()]


def _labels(value: Any, names: Sequence[str] | None, options: AnnotationOptions) -> tuple[str, ...]:
    if names is not None and isinstance(value, float) and value.is_integer():
        value = int(value)  # as pandas has integers among which one is missing
    if names is not None and isinstance(value, list) and options.list_separator is not None:
        found = [label for each in value for label in _labels(each, names, options)]
        if options.label_separator is None:
            return (options.list_separator.join(found),)
        return tuple(dict.fromkeys(found)) or parse_labels("", options)
    if names is None or not isinstance(value, int):
        return parse_labels(labels_text(value, options.list_separator), options)
    if not 0 <= value < len(names):
        raise MalformedRow(f"label {value} is not one of the {len(names):,} class names")
    return (canonical_label(names[value].strip()),)


def _class_names(schema: pa.Schema, label: int) -> list[str] | None:
    """The names of a column of ClassLabel, or of lists of them; None for any other."""
    feature = hugging_face_feature(schema, schema.names[label])
    inner = feature.get("feature")
    names = (inner if isinstance(inner, dict) else feature).get("names")
    if not isinstance(names, list) or not all(isinstance(n, str) and n.strip() for n in names):
        return None
    if any(map(has_control_characters, names)):
        raise DataError(f"a class name among {quoted(str(names))} holds a control character")
    return names
