"""Tables as JSON: an object with the columns for each row, one a line, or all in one list."""

from __future__ import annotations

import json
from collections.abc import Iterator

from lookalike import storage
from lookalike.data.readers.annotation import BadRows, Malformed, lines, quoted, read_text
from lookalike.data.readers.column_names import PATHS, plain
from lookalike.data.readers.reader_options import PLAIN, Reading
from lookalike.data.readers.table_rows import Columns, image_places, whole_table
from lookalike.data.record import Record
from lookalike.errors import DataError

_SAMPLE = 200  # rows


def is_table(text: str, how: Reading) -> bool:
    """Whether a text that begins with `{` or `[` is such a table, by its first object."""
    if text.lstrip()[:1] == "[":
        return True
    try:
        first = json.loads(next(line for line in lines(text) if line.strip()))
    except (ValueError, RecursionError):
        return False
    if not isinstance(first, dict) or isinstance(first.get("data"), dict):
        return False
    if isinstance(first.get("images"), list) and "annotations" in first:
        return False  # COCO
    return bool(how.path_column in first or any(plain(name) in PATHS for name in first))


def refuse_one_object(text: str, source: str) -> None:
    """Say what is wrong with a file that is one JSON object and no item of a manifest.

    Raises:
        DataError: it is one.
    """
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return  # objects one a line, or no JSON
    if isinstance(whole.get("data"), dict):
        return
    if isinstance(whole.get("images"), list) and "annotations" in whole:
        raise DataError(
            f"{source}: annotations in COCO's format, which is not read; write a table with the "
            "columns path, label, x_1, y_1, x_2, y_2 and one row for each box"
        )
    shown = ", ".join(map(quoted, list(whole)[:3])) + (", ..." if len(whole) > 3 else "")
    raise DataError(
        f"{source}: one JSON object ({shown}), where one object for each image is expected: "
        '{"path": "a.jpg", "label": "shoe"}, one a line or all in a list'
    )


def read(uri: str, text: str | None = None, how: Reading = PLAIN) -> list[Record]:
    """The records of a table as JSON; see `lookalike.data.readers.table_rows` for the columns.

    A record's line is its line, or its number in the list, from 1.

    Args:
        uri: the file, plain or gzipped.
        text: its content, if the caller has read it already.
        how: what to look for.

    Raises:
        StorageError: the file cannot be read.
        DataError: bad rows (all reported together, the first ten in full), or no rows.
    """
    text = read_text(uri) if text is None else text
    source = storage.public(uri)
    complaints: list[tuple[int, str]] = []
    rows: list[tuple[int, dict[str, object]]] = []
    names: dict[str, None] = {}
    for number, item in _items(text, source):
        if isinstance(item, dict):
            names |= dict.fromkeys(item)
            rows.append((number, item))
        else:
            complaints.append((number, f"{item}; write one object a line"))
    if not rows:
        return whole_table([], _noted(complaints, source), source, how)
    order = list(names)
    columns = Columns(
        order,
        [[_shown(row.get(name)) for name in order] for _, row in rows[:_SAMPLE]],
        source,
        how,
        column=lambda i: [_shown(row.get(order[i])) for _, row in rows],
    )
    place_of = image_places(uri, how)
    labels: dict[str, str] = {}
    records: list[Record] = []
    for number, row in rows:
        try:
            cells = [
                cell_text(row.get(name)) if index in columns.used else ""
                for index, name in enumerate(order)
            ]
            label = columns.label_of(cells)
            place = place_of(cells[columns.path])
            details = columns.details(cells)
        except Malformed as error:
            complaints.append((number, str(error)))
        else:
            label = labels.setdefault(label, label)
            records.append(Record(place, label, source, number, details=details))
    return whole_table(records, _noted(complaints, source), source, how)


def _noted(complaints: list[tuple[int, str]], source: str) -> BadRows:
    bad = BadRows()
    for number, complaint in sorted(complaints):
        bad.add(f"{source}:{number}", complaint)
    return bad


def cell_text(value: object) -> str:
    """A cell of a table with types as text; "" for nothing.

    Raises:
        Malformed: it is no single value, or a number that a float cannot hold.
    """
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise Malformed(f"{quoted(str(value))} is neither a text nor a number") from None
    if isinstance(value, dict | list | tuple):
        raise Malformed(f"{quoted(str(value))} is neither a text nor a number")
    if isinstance(value, float) and value.is_integer():
        if abs(value) >= 2**53:
            raise Malformed(
                f"{value} is a float, which cannot hold all integers of this size; write it as "
                "an integer or as text"
            )
        return str(int(value))
    return "" if value is None else str(value)


def _shown(value: object) -> str:
    return str(value) if isinstance(value, str | int | float) else ""


def _items(text: str, source: str) -> Iterator[tuple[int, dict[str, object] | str]]:
    """Number and object of each row; a complaint in its stead where it is none."""
    if text.lstrip()[:1] == "[":
        try:
            items = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{source}: not JSON ({str(error)[:100]})") from None
        for number, item in enumerate(items, 1):
            yield number, item if isinstance(item, dict) else f"{quoted(str(item))} is no object"
        return
    for number, line in enumerate(lines(text), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except (ValueError, RecursionError):
            yield number, f"{quoted(line.strip())} is not JSON"
        else:
            yield number, item if isinstance(item, dict) else f"{quoted(line.strip())} is no object"
