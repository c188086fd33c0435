"""How a text is laid out in columns: what is between them, and what they are called.

Lists without a first line of names are known by their content:

    label,path  or  path,label         with a comma, semicolon, bar or tab
    3 img/a.jpg                        a number before the path
    img/a.jpg 99 2                     PaddleClas: path, label, number of the image
    17 <tab> 3.0 <tab> img/a.jpg       MXNet's .lst: number of the image, label, path
    1 <tab> img/a.jpg <tab> 3          InsightFace's .lst: whether it is aligned, path, label
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from lookalike.data.readers.annotation import IMAGE_SUFFIXES, Malformed, is_integer, lines
from lookalike.data.readers.column_names import PATHS, is_image_name, names_columns, plain
from lookalike.data.readers.reader_options import Reading
from lookalike.errors import DataError

BLANKS = " "
"""As a delimiter: any run of blanks and tabs."""

_LOOKED_AT = 200  # lines
_MARKS = ",;\t|"
_TABLES = (".csv", ".tsv")


@dataclass(frozen=True)
class Layout:
    """Columns of a text.

    Attributes:
        delimiter: what is between the cells.
        names: of the columns.
        header: whether the first line holds the names.
    """

    delimiter: str
    names: tuple[str, ...]
    header: bool

    def rows(self, text: str) -> Iterator[tuple[int, list[str]]]:
        """Line number and cells of each row that is not empty; a row's line is where it ends.

        Raises:
            csv.Error: cells that are quoted in a wrong way; its text begins with the line.
        """
        blanks = self.delimiter == BLANKS
        rows = self._blank_separated(text) if blanks else self._marked(text)
        skipped = 1 if self.header else 0
        for number, cells in islice(rows, skipped, None):
            if self.header or cells[0].strip()[:1] != "#":
                yield number, cells

    def _marked(self, text: str) -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader(lines(text), delimiter=self.delimiter, strict=True)
        try:
            for cells in reader:
                if any(map(str.strip, cells)):
                    yield reader.line_num, cells
        except csv.Error as error:
            raise csv.Error(f"{reader.line_num}: not CSV ({error})") from None

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


def layout_of(text: str, name: str, how: Reading, *, certain: bool = False) -> Layout | None:
    """The columns of a text; None for a list of `path label`, or of paths.

    Args:
        text: the content of an annotation.
        name: of the file.
        how: what is looked for.
        certain: it is a table, so the first line names its columns unless it looks like a row.

    Raises:
        DataError: it has columns, but which one is the label cannot be known.
    """
    first = next((line for line in lines(text) if line.strip()), "")
    delimiter = _delimiter_of(first)
    names = _cells(first, delimiter)
    if len(names) > 1 and names_columns(names, how, certain=delimiter == BLANKS):
        return Layout(delimiter, tuple(names), True)
    certain = certain or name.lower().removesuffix(".gz").endswith(_TABLES)
    found = _by_content(text, name, how, certain)
    if found is not None or not certain:
        return found
    if delimiter == BLANKS:
        header = len(names) == 1 and plain(names[0]) in PATHS
        return Layout(",", tuple(names), True) if header else None
    if any(map(is_image_name, names)):
        raise DataError(
            f"{name}:1: no names of columns; write a first line that names them, as path,label"
        )
    return Layout(delimiter, tuple(names), True)


def _by_content(text: str, name: str, how: Reading, certain: bool) -> Layout | None:
    """Columns without names."""
    looked = (line.strip("\r\n") for line in lines(text))
    some = list(islice((line for line in looked if line.strip() and line[0] != "#"), _LOOKED_AT))
    for mark in _MARKS:
        if some and all(mark in line for line in some):
            rows = [_cells(line, mark) for line in some]
            names = _roles(rows, name, mark)
            if names == ("path", "label") and mark == "\t":
                continue  # a plain list
            if names == ("label", "path") and not (
                certain or (how.labelled and all(_number(row[0]) for row in rows))
            ):
                continue  # paths with commas
            if names is not None:
                return Layout(mark, names, False)
    if how.labelled and some and all(re.fullmatch(r"\s*\d+(\.0*)?\s+\S.*", row) for row in some):
        rows = [row.split(None, 1) for row in some]
        if all(_ends_as_image(row[1]) for row in rows):
            return Layout(BLANKS, ("label", "path"), False)
    rows = [row.rsplit(None, 2) for row in some]
    if rows and all(len(row) == 3 and _ends_as_image(row[0]) and _number(row[1]) for row in rows):
        names = _roles(rows, name, BLANKS)
        return None if names is None else Layout(BLANKS, names, False)
    return None


def _roles(rows: Sequence[Sequence[str]], name: str, mark: str) -> tuple[str, ...] | None:
    """What columns without names are; None where these are no columns.

    Raises:
        DataError: which one is the label cannot be known.
    """
    width = len(rows[0])
    if width < 2 or any(len(row) != width for row in rows):
        return None
    paths = [i for i in range(width) if all(_ends_as_image(row[i]) for row in rows)]
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
                f"{name}:1: {width - 2} labels an image, but an image has one class here; keep one"
            )
    if width == 3 and path == 0 and mark in (BLANKS, "\t"):
        unique = [len(set(column)) == len(column) for column in columns[1:]]
        if unique == [False, True] and all(map(_number, columns[1])):
            return ("path", "label", "number")
    raise DataError(
        f"{name}:1: {width} columns without names; write a first line that names them, as "
        + (mark if mark.isprintable() else " ").join(
            "path" if i == path else "label" if i == (path == 0) else f"column_{i + 1}"
            for i in range(width)
        )
    )


def _delimiter_of(line: str) -> str:
    """What separates the cells: the most frequent of comma, semicolon, tab and bar; or blanks."""
    best = max(_MARKS, key=line.count)
    return best if best in line else BLANKS


def _cells(line: str, delimiter: str) -> list[str]:
    if delimiter == BLANKS:
        return line.split()
    try:
        return next(csv.reader([line.strip("\r\n")], delimiter=delimiter), [])
    except csv.Error:
        return line.split(delimiter)


def _ends_as_image(cell: str) -> bool:
    """Whether a cell is the name of an image; less than `is_image_name`, for lists of addresses."""
    return cell.strip().lower().endswith(IMAGE_SUFFIXES)


def _number(text: str) -> bool:
    return is_integer(text.strip())


def check_width(cells: Sequence[str], width: int) -> None:
    """Refuse a row of another number of cells than there are columns.

    Raises:
        Malformed: it is one.
    """
    if len(cells) != width:
        raise Malformed(f"{len(cells)} cells, {width} columns; quote cells with commas")
