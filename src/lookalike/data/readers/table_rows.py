"""Rows of a table as records; `csv_table`, `json_lines` and `parquet` bring the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from lookalike import storage
from lookalike.data.readers.annotation import (
    Annotation,
    BadRows,
    MalformedRow,
    has_control_characters,
    is_invalid_uri,
    quoted,
)
from lookalike.data.readers.boxes import unify_boxes
from lookalike.data.readers.table_columns import is_image_name
from lookalike.data.record import Details, Member, Record
from lookalike.data.record_table import RecordTable

Row = TypeVar("Row")


class ParsedRow(NamedTuple):
    """The fields of a record that a row gives."""

    uri: str
    label: str
    details: Details | None
    member: Member | None = None


def row_records(
    source: str,
    rows: Iterable[tuple[int, Row]],
    parse: Callable[[Row], ParsedRow],
    bad: BadRows,
) -> Iterator[Record]:
    """The records of numbered rows; where `parse` raises MalformedRow, `bad` collects it."""
    for number, row in rows:
        try:
            uri, label, details, member = parse(row)
        except MalformedRow as error:
            bad.add(f"{source}:{number}", error)
        else:
            yield Record(uri, label, source, number, member, details)


def finish_table(annotation: Annotation, records: RecordTable, bad: BadRows) -> RecordTable:
    """The records of a table, with all boxes in one unit; see `Annotation.finish`."""
    records = unify_boxes(records, bad, annotation.name)
    return annotation.finish(records, bad, "the table holds no rows")


def image_resolver(annotation: Annotation) -> Callable[[str], str]:
    """The function that gives the address of an image, from its path or id in a table.

    With `image_root`, the files there are listed once a name without a suffix comes up: it means
    the file of this name, or the only one that has this name before its suffix.
    """
    resolve = annotation.resolver()
    root = annotation.options.image_root
    names: dict[str, list[str]] | None = None

    def place(text: str) -> str:
        nonlocal names
        path = text.strip()
        if not path or has_control_characters(path) or (":" in path and is_invalid_uri(path)):
            raise MalformedRow(f"{quoted(path)} is not the path or URI of an image")
        if root is None or is_image_name(path) or "://" in path:
            return resolve(path)
        if names is None:
            names = _files_by_name(root)
        found = names.get(path, [])
        if path in found or not found:
            return resolve(path)
        if len(found) > 1:
            raise MalformedRow(
                f"{quoted(path)} may be {found[0]} or {found[1]} in {storage.public(root)}; "
                "write the whole name"
            )
        return storage.join(root, found[0])

    return place


def cell_text(value: object) -> str:
    """A cell of a table with types as text; "" for nothing.

    Raises:
        MalformedRow: it is no single value, or a float beyond exact integers.
    """
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise MalformedRow(f"{quoted(str(value))} is neither a text nor a number") from None
    if isinstance(value, dict | list | tuple):
        raise MalformedRow(f"{quoted(str(value))} is neither a text nor a number")
    if isinstance(value, float) and value.is_integer():
        if abs(value) >= 2**53:
            raise MalformedRow(
                f"{value} is a float, which cannot hold all integers of this size; write it as "
                "an integer or as text"
            )
        return str(int(value))
    return "" if value is None else str(value)


def labels_text(value: object, separator: str | None) -> str:
    """The cell of the labels as text; a list of them with the separator between.

    Raises:
        MalformedRow: as in `cell_text`, or a list where there is no separator.
    """
    if not isinstance(value, list | tuple):
        return cell_text(value)
    if separator is None:
        raise MalformedRow(
            f"label {quoted(str(value))} is a list; set data.label_separator='|' (evaluate: "
            "--label-separator '|') where images have several labels"
        )
    return separator.join(map(cell_text, value))


def _files_by_name(root: str) -> dict[str, list[str]]:
    """The files below a folder by path and by name, with and without suffix."""
    found: dict[str, list[str]] = {}
    for file in storage.files_below(root):
        name = file.rsplit("/", 1)[-1]
        for known in {file, file.rpartition(".")[0], name, name.rpartition(".")[0]}:
            if known:
                found.setdefault(known, []).append(file)
    return found
