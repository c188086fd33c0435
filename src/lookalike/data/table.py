"""Tables with a row for each image: the columns, in Open Metric Learning's names.

    path,label[,split,is_query,is_gallery,category,sequence,x_1,y_1,x_2,y_2]

and `camera` of person re-identification.

`lookalike.data.csv_table` and `lookalike.data.parquet` bring the rows.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from lookalike import storage
from lookalike.data.annotation import all_bad, malformed, quoted, shortest, unusable
from lookalike.data.record import Details, Record
from lookalike.data.splits import split_name
from lookalike.errors import DataError, StorageError

_log = logging.getLogger(__name__)

# The first name that is there counts.
PATHS = ("path", "image_path", "file_name", "filename", "image")
LABELS = ("label", "labels", "class", "class_name")
_BOX = ("x_1", "y_1", "x_2", "y_2")  # left, top, right, bottom
_OTHERS = ("split", "is_query", "is_gallery", "sequence", "camera", "category")
SEQUENCE_OR_CAMERA = "images stay apart by `sequence` or by `camera`, not by both"
_YES = frozenset(("true", "1", "1.0", "yes", "t"))
_NO = frozenset(("false", "0", "0.0", "no", "f"))
_EMPTY = frozenset(("", "nan", "none", "null", "na"))  # as pandas and others write nothing

T = TypeVar("T")


class Malformed(Exception):
    """What is wrong with a row, and the fix."""


class Columns:
    """Which cell of a row is what.

    Args:
        names: the table's columns, in order.
        place: the table, for messages.
        path: the name of the column of images; None to look for one of their paths.
        labelled: there must be labels; else `label` may be None.

    Raises:
        DataError: there is no column of paths or labels, one is there twice, or a part of the
            box is missing.
    """

    def __init__(
        self, names: Sequence[str], place: str, path: str | None = None, *, labelled: bool = True
    ) -> None:
        plain = [name.strip().lower() for name in names]
        images = PATHS if path is None else (path.strip().lower(),)
        self.path = _first(plain, images, "paths of the images", place)
        self.labelled = labelled
        self.label: int | None = None
        if labelled or not set(LABELS).isdisjoint(plain):
            self.label = _first(plain, LABELS, "labels", place)
        used = {plain[self.path]} | ({plain[self.label]} if self.label is not None else set())
        for name in {*_BOX, *_OTHERS, *used}:
            if plain.count(name) > 1:
                raise DataError(f"{place}: the column {name!r} is there twice; remove one")
        self._where = {name: plain.index(name) for name in (*_BOX, *_OTHERS) if name in plain}
        missing = [name for name in _BOX if name not in self._where]
        if 0 < len(missing) < len(_BOX):
            raise DataError(
                f"{place}: a box has the columns {', '.join(_BOX)}; {', '.join(missing)} missing"
            )
        if {"sequence", "camera"} <= self._where.keys():
            raise DataError(f"{place}: {SEQUENCE_OR_CAMERA}; leave out one of the two columns")
        self.used = {self.path, *self._where.values()}
        if self.label is not None:
            self.used.add(self.label)
        unused = [name for name in plain if name and name not in {*used, *self._where}]
        if unused:
            _log.warning("%s: columns not used: %s", place, ", ".join(map(quoted, unused)))
        self._details: dict[Details, Details] = {}  # keeps one object of each

    def label_of(self, cells: Sequence[str]) -> str:
        """The row's label; "" where it has none and needs none.

        Raises:
            Malformed: it has none, or one that is no label.
        """
        text = "" if self.label is None else cells[self.label]
        return checked_label(text) if self.labelled or text.strip() else ""

    def details(self, cells: Sequence[str], split: str | None = None) -> Details | None:
        """What the row says beside path and label; `split` where it says none itself.

        Raises:
            Malformed: a cell has no meaning.
        """
        if not self._where and split is None:
            return None
        found = details_of({name: cells[index] for name, index in self._where.items()}, split)
        return self._details.setdefault(found, found)


def details_of(cells: Mapping[str, str], split: str | None = None) -> Details:
    """What the cells of a row say, by the names of their columns; an empty one says nothing.

    Raises:
        Malformed: a cell has no meaning.
    """
    texts = {name: text.strip() for name, text in cells.items()}
    texts = {name: text for name, text in texts.items() if text.lower() not in _EMPTY}
    if "split" in cells and "split" not in texts:
        raise Malformed("the split is missing; every row needs one")
    return Details(
        box=_box(texts),
        split=split_name(texts["split"]) if "split" in texts else split,
        is_query=_flag(texts, "is_query"),
        is_gallery=_flag(texts, "is_gallery"),
        sequence=texts.get("sequence"),
        category=texts.get("category"),
        camera=texts.get("camera"),
    )


def is_header(line: str, *, labelled: bool = True) -> bool:
    """Whether a line names a column of paths and, if they must be there, one of labels."""
    names = [name.strip().strip('"').lower() for name in line.split(delimiter_of(line))]
    found = not set(LABELS).isdisjoint(names)
    return not set(PATHS).isdisjoint(names) and (found or not labelled)


def delimiter_of(header: str) -> str:
    """What separates the columns: the most frequent of comma, semicolon, tab and bar."""
    return max(",;\t|", key=header.count)


def text_records(
    rows: Iterable[tuple[int, Sequence[str]]], columns: Columns, width: int, uri: str
) -> list[Record]:
    """The records of rows of text.

    Args:
        rows: line number and cells of each.
        columns: what the cells are.
        width: how many cells a row has.
        uri: the table; relative paths start at its folder.

    Raises:
        DataError: bad rows (all reported together, the first ten in full).
    """
    source, resolve = storage.public(uri), storage.resolver(uri)
    labels: dict[str, str] = {}
    records: list[Record] = []
    bad: list[tuple[int, str]] = []
    for number, cells in rows:
        try:
            if len(cells) != width:
                raise Malformed(f"{len(cells)} cells, {width} columns; quote cells with commas")
            label = columns.label_of(cells)
            place = image_place(cells[columns.path], resolve)
            details = columns.details(cells)
        except Malformed as error:
            bad.append((number, str(error)))
        else:
            label = labels.setdefault(label, label)
            records.append(Record(place, label, source, number, details=details))
    if bad:
        raise all_bad(bad, lambda item: f"{source}:{item[0]}: {item[1]}")
    if not records:
        raise DataError(f"{source}: the table holds no rows")
    return records


def image_place(text: str, resolve: Callable[[str], str]) -> str:
    """The address of an image, by the `storage.resolver` of the table that names it.

    Raises:
        Malformed: it is no path and no URI, or leads out of the table's bucket.
    """
    path = text.strip()
    if not path or unusable(path) or (":" in path and malformed(path)):
        raise Malformed(f"{quoted(path)} is not the path or URI of an image")
    try:
        return resolve(path)
    except StorageError as error:
        raise Malformed(str(error)) from None


def checked_label(text: str) -> str:
    """A label as written, integers in their shortest form; `3.0`, as pandas writes them, is `3`.

    Raises:
        Malformed: there is none, or it holds a control character.
    """
    label = text.strip()
    if not label or unusable(label):
        raise Malformed(f"label {quoted(label)} is no label")
    whole, dot, rest = label.partition(".")
    return shortest(whole if dot and rest.strip("0") == "" and whole.isdigit() else label)


def _first(names: Sequence[str], choices: Sequence[str], what: str, place: str) -> int:
    for name in choices:
        if name in names:
            return names.index(name)
    there = ", ".join(map(quoted, names[:20]))
    raise DataError(
        f"{place}: no column of {what} ({' or '.join(choices)}) among {there}; name it so"
    )


def _flag(texts: dict[str, str], name: str) -> bool | None:
    text = texts.get(name, "").lower()
    if text in _YES:
        return True
    if text in _NO:
        return False
    if text:
        raise Malformed(f"{name} is {quoted(text)}; write true or false")
    return None


def _box(texts: dict[str, str]) -> tuple[int, int, int, int] | None:
    cells = [texts[name] for name in _BOX if name in texts]
    if not cells:
        return None
    if len(cells) < len(_BOX):
        raise Malformed("the box is not complete; write all of x_1, y_1, x_2, y_2 or none")
    numbers = [_converted(float, cell) for cell in cells]
    if any(number is None or not math.isfinite(number) for number in numbers):
        raise Malformed(f"the box {', '.join(map(quoted, cells))} is not four numbers")
    left, top, right, bottom = (round(number or 0) for number in numbers)
    if left >= right or top >= bottom or right <= 0 or bottom <= 0:
        raise Malformed(f"the box x {left} to {right}, y {top} to {bottom} has nothing in it")
    return left, top, right, bottom


def _converted(kind: Callable[[str], T], text: str) -> T | None:
    try:
        return kind(text)
    except ValueError:
        return None
