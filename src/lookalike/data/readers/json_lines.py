"""Tables as JSON: an object with the columns for each row, one a line, or all in one list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

from lookalike.data.readers.annotation import (
    Annotation,
    AnnotationOptions,
    BadRows,
    MalformedRow,
    lines,
    quoted,
)
from lookalike.data.readers.json_objects import json_object
from lookalike.data.readers.table_columns import PATHS, SAMPLE, Columns, column_key
from lookalike.data.readers.table_rows import (
    ParsedRow,
    cell_text,
    finish_table,
    image_resolver,
    labels_text,
    row_records,
)
from lookalike.data.record_table import RecordTable
from lookalike.errors import DataError


def is_table(text: str, options: AnnotationOptions) -> bool:
    """True for a text that begins with `[`, or whose first object has a column of paths."""
    if text.lstrip()[:1] == "[":
        return True
    first: dict[str, object] = {}
    for line in islice(lines(text), SAMPLE):
        with suppress(MalformedRow):
            first = json_object(line)
            break
    if isinstance(first.get("data"), dict) or _is_coco(first):
        return False
    return bool(options.path_column in first or any(column_key(name) in PATHS for name in first))


def refuse_one_object(text: str, source: str) -> None:
    """Refuse a file that is one JSON object and no item of a manifest.

    Raises:
        DataError: it is one.
    """
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return  # objects one a line, or no JSON
    if isinstance(whole.get("data"), dict):
        return
    if _is_coco(whole):
        raise DataError(
            f"{source}: annotations in COCO's format, which is not read; write a table with the "
            "columns path, label, x_1, y_1, x_2, y_2 and one row for each box"
        )
    shown = ", ".join(map(quoted, list(whole)[:3])) + (", ..." if len(whole) > 3 else "")
    raise DataError(
        f"{source}: one JSON object ({shown}), where one object for each image is expected: "
        '{"path": "a.jpg", "label": "shoe"}, one a line or all in a list'
    )


def read(annotation: Annotation) -> RecordTable:
    """The records of a table; a record's line is its line, or its number in the list, from 1.

    Raises:
        StorageError: the file cannot be read.
        DataError: bad rows, or no rows.
    """
    source, separator, bad = annotation.name, annotation.options.list_separator, BadRows()
    items = list(_items(annotation.text, source))
    rows = [item for _, item in items if isinstance(item, dict)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    if rows:
        columns = Columns(
            names,
            [[_sample_text(row.get(name)) for name in names] for row in rows[:SAMPLE]],
            source,
            annotation.options,
            cells=lambda i: [_sample_text(row.get(names[i])) for row in rows],
        )
    resolve = image_resolver(annotation)

    def parse(item: dict[str, object] | MalformedRow) -> ParsedRow:
        if isinstance(item, MalformedRow):
            raise item
        cells = [
            "" if index not in columns.used
            else labels_text(item.get(name), separator) if index == columns.label
            else cell_text(item.get(name))
            for index, name in enumerate(names)
        ]  # fmt: skip
        labels = columns.labels_of(cells)
        details = columns.details_of(cells, labels)
        return ParsedRow(resolve(cells[columns.path]), labels[0], details)

    return finish_table(annotation, RecordTable(row_records(source, items, parse, bad)), bad)


def _is_coco(item: dict[str, object]) -> bool:
    return isinstance(item.get("images"), list) and "annotations" in item


def _sample_text(value: object) -> str:
    return str(value) if isinstance(value, str | int | float) else ""


def _items(text: str, source: str) -> Iterator[tuple[int, dict[str, object] | MalformedRow]]:
    """Number and object of each row; the fault in its stead where it is none."""
    if text.lstrip()[:1] == "[":
        try:
            items = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{source}: not JSON ({str(error)[:100]})") from None
        for number, item in enumerate(items, 1):
            fault = MalformedRow(f"{quoted(str(item))} is no JSON object; write one for each image")
            yield number, item if isinstance(item, dict) else fault
        return
    for number, line in enumerate(lines(text), 1):
        if not line.strip():
            continue
        try:
            yield number, json_object(line)
        except MalformedRow as error:
            yield number, error
