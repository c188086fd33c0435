"""Tables with a row for each image: the columns, in Open Metric Learning's names.

    path,label[,split,is_query,is_gallery,category,sequence,x_1,y_1,x_2,y_2]

and `camera` of person re-identification. Other names of the first two are in
`lookalike.data.readers.column_names`, of the box in `lookalike.data.readers.box_columns`.

`csv_table`, `json_lines` and `parquet` bring the rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from lookalike import storage
from lookalike.data.readers.annotation import (
    BadRows,
    Malformed,
    label_in,
    malformed,
    quoted,
    unusable,
)
from lookalike.data.readers.box_columns import box_columns, corners_of, settle_boxes, unread_box
from lookalike.data.readers.column_layout import check_width
from lookalike.data.readers.column_names import is_image_name, label_column, path_column, plain
from lookalike.data.readers.reader_options import Reading
from lookalike.data.record import Details, Record
from lookalike.data.splits import split_name
from lookalike.errors import DataError

_log = logging.getLogger(__name__)

_OTHERS = ("split", "is_query", "is_gallery", "sequence", "camera", "category")
SEQUENCE_OR_CAMERA = "images stay apart by `sequence` or by `camera`, not by both"
_YES = frozenset(("true", "1", "1.0", "yes", "t"))
_NO = frozenset(("false", "0", "0.0", "no", "f"))
_EMPTY = frozenset(("", "nan", "none", "null", "na", "<na>"))  # as programs write nothing


class Columns:
    """Which cell of a row is what.

    Args:
        names: the table's columns, in order.
        sample: some of its rows, as texts.
        place: the table, for messages.
        how: what to look for; without labels, `label` may be None.
        image: the index of the column of images; None to look for one of their paths.
        column: gives all cells of a column, to compare those that may be the label.

    Raises:
        DataError: there is no column of paths or labels, one is there twice, several may be
            meant, or a part of the box is missing.
    """

    def __init__(
        self,
        names: Sequence[str],
        sample: Sequence[Sequence[str]],
        place: str,
        how: Reading,
        *,
        image: int | None = None,
        column: Callable[[int], Sequence[object]] | None = None,
    ) -> None:
        simple = [plain(name) for name in names]
        self.path = path_column(names, sample, place, how) if image is None else image
        self.labelled = how.labelled
        try:
            self._box = box_columns(simple)
        except Malformed as error:
            raise DataError(f"{place}: {error}") from None
        for name in {*self._box, *_OTHERS}:
            if simple.count(name) > 1:
                raise DataError(f"{place}: the column {name!r} is there twice; remove one")
        self._where = {
            name: simple.index(name) for name in (*self._box, *_OTHERS) if name in simple
        }
        same = None if column is None else lambda a, b: _same_classes(column(a), column(b))
        self.label = label_column(names, self.path, tuple(self._where.values()), place, how, same)
        for index in (self.path, self.label):  # a setting may name a column of another meaning
            if index is not None:
                self._where.pop(simple[index], None)
        if {"sequence", "camera"} <= self._where.keys():
            raise DataError(f"{place}: {SEQUENCE_OR_CAMERA}; leave out one of the two columns")
        self.used = {self.path, *self._where.values()}
        if self.label is not None:
            self.used.add(self.label)
        unused = [name for i, name in enumerate(names) if name.strip() and i not in self.used]
        if unused:
            _log.warning("%s: columns not used: %s", place, ", ".join(map(quoted, unused)))
        if not self._box and (
            odd := unread_box([simple[i] for i in range(len(names)) if i not in self.used])
        ):
            _log.warning(
                "%s: %s looks like a box and is not used: images are whole pictures. Write it as "
                "x_1, y_1, x_2, y_2 (left, top, right, bottom), or as x_center, y_center, width, "
                "height, if parts of the pictures are meant",
                place, ", ".join(map(quoted, odd)),
            )  # fmt: skip
        self._details: dict[Details, Details] = {}  # keeps one object of each

    def label_of(self, cells: Sequence[str]) -> str:
        """The row's label; "" where it has none and needs none.

        Raises:
            Malformed: it has none, or one that is no label.
        """
        return label_in("" if self.label is None else cells[self.label], self.labelled)

    def details(self, cells: Sequence[str], split: str | None = None) -> Details | None:
        """What the row says beside path and label; `split` where it says none itself.

        Raises:
            Malformed: a cell has no meaning.
        """
        if not self._where and split is None:
            return None
        found = details_of(
            {name: cells[index] for name, index in self._where.items()}, split, self._box
        )
        return self._details.setdefault(found, found)


def details_of(
    cells: Mapping[str, str], split: str | None = None, box: Sequence[str] = ()
) -> Details:
    """What the cells of a row say, by the names of their columns; an empty one says nothing.

    Args:
        cells: by the names of their columns.
        split: that of the row where it says none itself.
        box: the columns of the box, which is then in its own unit: see `settle_boxes`.

    Raises:
        Malformed: a cell has no meaning.
    """
    texts = {name: text.strip() for name, text in cells.items()}
    texts = {name: text for name, text in texts.items() if text.lower() not in _EMPTY}
    if "split" in cells and "split" not in texts:
        raise Malformed("the split is missing; every row needs one")
    return Details(
        box=corners_of(box, texts),
        split=split_name(texts["split"]) if "split" in texts else split,
        is_query=_flag(texts, "is_query"),
        is_gallery=_flag(texts, "is_gallery"),
        sequence=texts.get("sequence"),
        category=texts.get("category"),
        camera=texts.get("camera"),
    )


def text_records(
    rows: Iterable[tuple[int, Sequence[str]]],
    columns: Columns,
    width: int,
    uri: str,
    how: Reading,
) -> list[Record]:
    """The records of rows of text.

    Args:
        rows: line number and cells of each.
        columns: what the cells are.
        width: how many cells a row has.
        uri: the table; relative paths start at its folder.
        how: what to look for.

    Raises:
        DataError: bad rows (all reported together, the first ten in full).
    """
    source, place_of = storage.public(uri), image_places(uri, how)
    labels: dict[str, str] = {}
    records: list[Record] = []
    bad = BadRows()
    for number, cells in rows:
        try:
            check_width(cells, width)
            label = columns.label_of(cells)
            place = place_of(cells[columns.path])
            details = columns.details(cells)
        except Malformed as error:
            bad.add(f"{source}:{number}", str(error))
        else:
            label = labels.setdefault(label, label)
            records.append(Record(place, label, source, number, details=details))
    return whole_table(records, bad, source, how)


def whole_table(records: list[Record], bad: BadRows, source: str, how: Reading) -> list[Record]:
    """The records of a table whose rows have all been read.

    Raises:
        DataError: bad rows, or no rows.
    """
    records = settle_boxes(records, bad, source)
    how.settle(bad)
    if not records and not bad.found:
        raise DataError(f"{source}: the table holds no rows")
    return records


def image_places(uri: str, how: Reading) -> Callable[[str], str]:
    """What turns the path or the id of an image, as a table has it, into its address.

    With `Reading.image_root`, the files there are listed once a name without a suffix comes up: it
    means the file of this name, or the only one that has this name before its suffix.
    """
    resolve = how.resolver(uri)
    root = how.image_root
    stems: dict[str, list[str]] | None = None

    def place(text: str) -> str:
        nonlocal stems
        path = text.strip()
        if not path or unusable(path) or (":" in path and malformed(path)):
            raise Malformed(f"{quoted(path)} is not the path or URI of an image")
        if root is None or is_image_name(path) or "://" in path:
            return resolve(path)
        if stems is None:
            stems = _stems(root)
        found = stems.get(path, [])
        if path in found or not found:
            return resolve(path)
        if len(found) > 1:
            raise Malformed(
                f"{quoted(path)} may be {found[0]} or {found[1]} in {storage.public(root)}; "
                "write the whole name"
            )
        return storage.join(root, found[0])

    return place


def _stems(root: str) -> dict[str, list[str]]:
    """The files below a folder by what a table may call them: path or name, with suffix or not."""
    found: dict[str, list[str]] = {}
    for file in storage.files_below(root):
        name = file.rsplit("/", 1)[-1]
        for known in {file, file.rpartition(".")[0], name, name.rpartition(".")[0]}:
            if known:
                found.setdefault(known, []).append(file)
    return found


def _same_classes(some: Sequence[object], others: Sequence[object]) -> bool:
    """Whether two columns divide the rows into the same classes."""
    pairs = len(set(zip(some, others, strict=False)))
    return len(some) == len(others) and pairs == len(set(some)) == len(set(others))


def _flag(texts: dict[str, str], name: str) -> bool | None:
    text = texts.get(name, "").lower()
    if text in _YES:
        return True
    if text in _NO:
        return False
    if text:
        raise Malformed(f"{name} is {quoted(text)}; write true or false")
    return None
