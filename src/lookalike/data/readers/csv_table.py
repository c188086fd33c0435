"""Tables as text: a comma, semicolon, tab, bar or blanks between the cells.

Those without a first line of names are recognised by content:

    label,path  or  path,label         with a comma, semicolon, bar or tab
    3 img/a.jpg                        a number before the path
    img/a.jpg 99 2                     PaddleClas: path, label, number of the image
    17 <tab> 3.0 <tab> img/a.jpg       MXNet's .lst: number of the image, label, path
    1 <tab> img/a.jpg <tab> 3          InsightFace's .lst: aligned, path, label
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from lookalike.data.decoding.image_formats import IMAGE_SUFFIXES
from lookalike.data.readers.annotation import (
    Annotation,
    BadRows,
    MalformedRow,
    is_integer,
    lines,
)
from lookalike.data.readers.table_columns import (
    PATHS,
    SAMPLE,
    Columns,
    column_key,
    is_header,
    is_image_name,
)
from lookalike.data.readers.table_rows import (
    ParsedRow,
    finish_table,
    image_resolver,
    row_records,
)
from lookalike.data.record_table import RecordTable
from lookalike.errors import DataError

_log = logging.getLogger(__name__)

_BLANKS = " "  # as a delimiter: any run of blanks and tabs
_MARKS = ",;\t|"
_SUFFIXES = (".csv", ".tsv")


def read(annotation: Annotation) -> RecordTable:
    """The records of a table, quoted as in RFC 4180; a record's line is where its row ends.

    Raises:
        StorageError: the file cannot be read.
        DataError: bad rows, or no rows.
    """
    source, text, options = annotation.name, annotation.text, annotation.options
    if not text.strip():
        raise DataError(f"{source}: an empty file; write a first line: path,label")
    layout = detect_layout(annotation, certain=True)
    if layout is None:
        raise DataError(f"{source}:1: no names of columns; write a first line: path,label")
    if not layout.header:
        _log.info("%s: columns without names, taken for %s", source, ", ".join(layout.names))

    def column(index: int) -> list[str]:
        return [cells[index] for _, cells in layout.rows(text) if index < len(cells)]

    def parse(cells: list[str]) -> ParsedRow:
        if len(cells) != width:
            raise MalformedRow(f"{len(cells)} cells, {width} columns; quote cells with commas")
        labels = columns.labels_of(cells)
        details = columns.details_of(cells, labels)
        return ParsedRow(resolve(cells[columns.path]), labels[0], details)

    bad, width = BadRows(), len(layout.names)
    try:
        sample = [cells for _, cells in islice(layout.rows(text), SAMPLE)]
        columns = Columns(layout.names, sample, f"{source}:1", options, cells=column)
        resolve = image_resolver(annotation)
        records = RecordTable(row_records(source, layout.rows(text), parse, bad))
    except csv.Error as error:
        raise DataError(f"{source}:{error}") from None
    return finish_table(annotation, records, bad)


@dataclass(frozen=True)
class Layout:
    """The delimiter of cells, the names of columns, and whether the first line holds them."""

    delimiter: str
    names: tuple[str, ...]
    header: bool

    def rows(self, text: str) -> Iterator[tuple[int, list[str]]]:
        """Last line and cells of each row that is not empty.

        A csv.Error begins with the first line of its row.
        """
        blanks = self.delimiter == _BLANKS
        rows = self._blank_separated(text) if blanks else self._marked(text)
        for number, cells in islice(rows, int(self.header), None):
            if self.header or cells[0].strip()[:1] != "#":
                yield number, cells

    def _marked(self, text: str) -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader(lines(text), delimiter=self.delimiter, strict=True)
        done = 0  # lines of whole rows
        try:
            for cells in reader:
                done = reader.line_num
                if any(map(str.strip, cells)):
                    yield done, cells
        except csv.Error as error:
            unclosed = "unexpected end of data" in str(error)
            fault = "a quote is not closed" if unclosed else error
            raise csv.Error(f"{done + 1}: not CSV ({fault})") from None

    def _blank_separated(self, text: str) -> Iterator[tuple[int, list[str]]]:
        """Rows of words; a path with blanks takes those that are too many."""
        path = self.names.index("path") if "path" in self.names else None
        for number, line in enumerate(lines(text), 1):
            line = line.strip()
            if not line:
                continue
            words = re.split(r"([ \t]+)", line)  # with what is between them
            extra = (len(words) + 1) // 2 - len(self.names)
            if extra > 0 and path is not None:
                end = 2 * (path + extra) + 1
                words[2 * path : end] = ["".join(words[2 * path : end])]
            yield number, words[::2]


def detect_layout(annotation: Annotation, *, certain: bool = False) -> Layout | None:
    """The columns of a text; None for a list of `path label`, or of paths.

    If it is `certain` to be a table, the first line names its columns unless it looks like a row.

    Raises:
        DataError: it has columns, but which one is the label cannot be known.
    """
    text, name, options = annotation.text, annotation.name, annotation.options
    first = next((line for line in lines(text) if line.strip()), "")
    best = max(_MARKS, key=first.count)
    delimiter = best if best in first else _BLANKS
    names = _split(first, delimiter)
    if len(names) > 1 and is_header(names, options, strict=delimiter == _BLANKS):
        return Layout(delimiter, tuple(names), True)
    certain = certain or name.lower().removesuffix(".gz").endswith(_SUFFIXES)
    found = _by_content(text, name, labelled=options.labelled, certain=certain)
    if found is not None or not certain:
        return found
    if delimiter == _BLANKS:
        header = len(names) == 1 and column_key(names[0]) in PATHS
        return Layout(",", tuple(names), True) if header else None
    if any(map(is_image_name, names)):
        raise DataError(
            f"{name}:1: no names of columns; write a first line that names them, as path,label"
        )
    return Layout(delimiter, tuple(names), True)


def _by_content(text: str, name: str, *, labelled: bool, certain: bool) -> Layout | None:
    """The columns of a text without a first line of names."""
    stripped = (line.strip("\r\n") for line in lines(text))
    some = list(islice((line for line in stripped if line.strip() and line[0] != "#"), SAMPLE))
    for mark in _MARKS:
        if some and all(mark in line for line in some):
            rows = [_split(line, mark) for line in some]
            names = _names_by_content(rows, name, mark)
            if names == ("path", "label") and mark == "\t":
                continue  # a plain list
            if names == ("label", "path") and not (
                certain or (labelled and all(_is_number(row[0]) for row in rows))
            ):
                continue  # paths with commas
            if names is not None:
                return Layout(mark, names, False)
    if labelled and some and all(re.fullmatch(r"\s*\d+(\.0*)?\s+\S.*", row) for row in some):
        rows = [row.split(None, 1) for row in some]
        if all(_is_image(row[1]) for row in rows):
            return Layout(_BLANKS, ("label", "path"), False)
    rows = [row.rsplit(None, 2) for row in some]
    if rows and all(len(row) == 3 and _is_image(row[0]) and _is_number(row[1]) for row in rows):
        names = _names_by_content(rows, name, _BLANKS)
        return None if names is None else Layout(_BLANKS, names, False)
    return None


def _names_by_content(
    rows: Sequence[Sequence[str]], name: str, mark: str
) -> tuple[str, ...] | None:
    """Names for columns without names; None where these are no columns."""
    width = len(rows[0])
    if width < 2 or any(len(row) != width for row in rows):
        return None
    paths = [i for i in range(width) if all(_is_image(row[i]) for row in rows)]
    if len(paths) != 1:
        return None
    path, columns = paths[0], list(zip(*rows, strict=True))
    if width == 2:
        return ("path", "label") if path == 0 else ("label", "path")
    if mark == "\t" and all(map(is_integer, columns[0])):
        if width == 3:
            return ("number", "label", "path") if path == 2 else ("aligned", "path", "label")
        if path == width - 1:
            raise DataError(
                f"{name}:1: {width - 2} labels for one image, but an image has one class; keep one"
            )
    if width == 3 and path == 0 and mark in (_BLANKS, "\t"):
        unique = [len(set(column)) == len(column) for column in columns[1:]]
        if unique == [False, True] and all(map(_is_number, columns[1])):
            return ("path", "label", "number")
    raise DataError(
        f"{name}:1: {width} columns without names; write a first line that names them, as "
        + (mark if mark.isprintable() else " ").join(
            "path" if i == path else "label" if i == (path == 0) else f"column_{i + 1}"
            for i in range(width)
        )
    )


def _split(line: str, delimiter: str) -> list[str]:
    if delimiter == _BLANKS:
        return line.split()
    try:
        return next(csv.reader([line.strip("\r\n")], delimiter=delimiter), [])
    except csv.Error:
        return line.split(delimiter)


def _is_image(cell: str) -> bool:
    """True for the name of an image; an address is none, unlike in `is_image_name`."""
    return cell.strip().lower().endswith(IMAGE_SUFFIXES)


def _is_number(text: str) -> bool:
    return is_integer(text.strip())
