"""The columns of a table: those of images and labels by name and content, the others by name.

    path,label[,split,is_query,is_gallery,category,sequence,x_1,y_1,x_2,y_2]

These are Open Metric Learning's names, and `camera` of person re-identification.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lookalike.data.decoding.image_formats import IMAGE_SUFFIXES
from lookalike.data.readers.annotation import (
    AnnotationOptions,
    MalformedRow,
    parse_label,
    parse_labels,
    parse_weight,
    quoted,
)
from lookalike.data.readers.boxes import ambiguous_box, box_columns, parse_box
from lookalike.data.record import Details
from lookalike.data.splits import split_name
from lookalike.errors import DataError

_log = logging.getLogger(__name__)

PATHS = (
    *("path", "image_path", "file_name", "filename", "image"),
    *("img_path", "file_path", "filepath", "file", "img", "images", "image_file", "image_name"),
    *("img_name", "img_file", "image_filename", "picture", "photo", "imagepath", "imgpath"),
    *("impath", "relative_path", "relpath", "imagename"),
)
"""Usual names of the column of paths, in lower case."""

# Names of other meanings in other tables: used where there is nothing else.
_OTHER_PATHS = ("url", "image_url", "uri", "image_uri", "image_id", "img_id", "id", "name")

LABELS = (
    *("label", "labels", "class", "class_name", "classname", "class_id", "label_id", "label_name"),
    *("identity", "identity_id", "individual_id", "individual", "label_group", "target", "targets"),
    *("landmark_id", "item_id", "product_id", "person_id", "person", "pid", "vehicle_id"),
    *("hotel_id", "subject_id", "object_id", "sku", "sku_id", "spu_id", "instance_id", "group_id"),
)
"""Usual names of the column of labels, in lower case."""

_OTHER_LABELS = ("id", "y", "group", "name", "species", "breed", "category_id")
DETAILS = ("split", "is_query", "is_gallery", "category", "sequence", "camera")
"""Columns that are kept under their own names."""

SAMPLE = 200
"""Rows by whose content columns are found."""

SEQUENCE_OR_CAMERA = "matches are excluded by `sequence` or by `camera`, not by both"

_YES = frozenset(("true", "1", "1.0", "yes", "t"))
_NO = frozenset(("false", "0", "0.0", "no", "f"))
_EMPTY = frozenset(("", "nan", "none", "null", "na", "<na>"))


def column_key(name: str) -> str:
    """The name of a column as it is compared: `Image Path` is `image_path`."""
    return re.sub(r"[\s.-]+", "_", name.strip().lower())


def is_image_name(text: str) -> bool:
    """True for a cell that looks like the path or the address of an image."""
    text = text.strip()
    return text.partition("?")[0].lower().endswith(IMAGE_SUFFIXES) or text[:8].lower().startswith(
        ("http://", "https://")
    )


def is_header(names: Sequence[str], options: AnnotationOptions, *, strict: bool) -> bool:
    """True for a first line that names a column of paths and, if needed, one of labels.

    With `strict`, only names without other meanings count.
    """
    if any(map(is_image_name, names)):
        return False
    asked = [c for c in (options.path_column, options.label_column) if c is not None]
    if asked:
        return all(_positions(names, column) for column in asked)
    found = list(map(column_key, names))
    paths = {name for name in found if name in PATHS or (not strict and name in _OTHER_PATHS)}
    labels = {name for name in found if name in LABELS or (not strict and name in _OTHER_LABELS)}
    return bool(paths) and (not options.labelled or any(labels - {path} for path in paths))


class Columns:
    """The positions of a table's columns.

    Args:
        place: the table, for messages.
        cells: gives all cells of a column, to compare those that may be the label.
        image: the position of the column that holds images; None to find the one of paths.

    Raises:
        DataError: there is no column of paths or labels, one occurs twice, several are possible,
            or a part of the box is missing.
    """

    def __init__(
        self,
        names: Sequence[str],
        sample: Sequence[Sequence[str]],
        place: str,
        options: AnnotationOptions,
        *,
        cells: Callable[[int], Sequence[object]],
        image: int | None = None,
    ) -> None:
        self._names, self._place, self._options = names, place, options
        self._keys = keys = list(map(column_key, names))
        self.path = self._find_path(sample) if image is None else image
        try:
            self._box = box_columns(keys)
        except MalformedRow as error:
            raise DataError(f"{place}: {error}") from None
        named = (*self._box, *DETAILS)
        for name in named:
            if keys.count(name) > 1:
                raise self._twice(name)
        self._details = {name: keys.index(name) for name in named if name in keys}
        self.label = self._find_label(cells)
        weight = options.weight_column
        self._weight = None if weight is None else self._asked(weight, "weights")
        self._coarser = [self._asked(name, "hierarchy") for name in options.coarser_columns]
        # A setting may name a column of another meaning.
        for index in (self.path, self.label, self._weight):
            if index is not None:
                self._details.pop(keys[index], None)
        if {"sequence", "camera"} <= self._details.keys():
            raise DataError(f"{place}: {SEQUENCE_OR_CAMERA}; leave out one of the two columns")
        self.used = {self.path, *self._details.values(), *self._coarser}
        if self.label is not None:
            self.used.add(self.label)
        if self._weight is not None:
            self.used.add(self._weight)
        self._warn_of_unused()

    def labels_of(self, cells: Sequence[str]) -> tuple[str, ...]:
        """The labels of a row; see `parse_labels`."""
        return parse_labels("" if self.label is None else cells[self.label], self._options)

    def details_of(
        self, cells: Sequence[str], labels: Sequence[str], split: str | None = None
    ) -> Details | None:
        """The details of a row with these labels; see `parse_details`."""
        more: dict[str, Any] = {}
        if self._weight is not None:
            more["weight"] = _weight(cells[self._weight])
        if len(labels) > 1:
            more["further_labels"] = tuple(labels[1:])
        if self._coarser:
            more["coarser"] = tuple(parse_label(cells[index], True) for index in self._coarser)
        if not more and split is None and not self._details:
            return None
        texts = {name: cells[index] for name, index in self._details.items()}
        return replace(parse_details(texts, split, self._box), **more)

    def _find_path(self, sample: Sequence[Sequence[str]]) -> int:
        if self._options.path_column is not None:
            return self._asked(self._options.path_column, "path_column")
        keys = self._keys
        if "path" in keys:
            return self._only("path")
        known = [index for index, key in enumerate(keys) if key in PATHS]
        images = [index for index in range(len(keys)) if _holds_images(sample, index)]
        choices = known if len(known) == 1 else [i for i in known if i in images] or known or images
        if not choices:
            other = [index for index, key in enumerate(keys) if key in _OTHER_PATHS]
            # An id is one of an image where a folder of images is given.
            choices = [i for i in other if keys[i] in ("image_id", "img_id")] or other
        return self._chosen(choices, "images", "path")

    def _find_label(self, cells: Callable[[int], Sequence[object]]) -> int | None:
        if self._options.label_column is not None:
            return self._asked(self._options.label_column, "label_column")
        keys, labelled = self._keys, self._options.labelled
        taken = {self.path, *self._details.values()}
        free = [i for i in range(len(keys)) if i not in taken and keys[i]]
        if any(keys[i] == "label" for i in free):
            return self._only("label")
        choices = [i for i in free if keys[i] in LABELS]
        if not choices and len(keys) == 2 and labelled:
            choices = free
        choices = choices or [i for i in free if keys[i] in _OTHER_LABELS]
        if len(choices) > 1:  # numbers and names of the same classes: the first
            first = min(choices, key=lambda i: LABELS.index(keys[i]) if keys[i] in LABELS else 99)
            if all(_same_classes(cells(first), cells(i)) for i in choices if i != first):
                choices = [first]
        if not labelled and len(choices) != 1:
            return None
        return self._chosen(choices, "labels", "label")

    def _asked(self, column: str, setting: str) -> int:
        found = _positions(self._names, column)
        if len(found) == 1:
            return found[0]
        what = f"{len(found)} columns" if found else "no column"
        raise DataError(
            f"{self._place}: {what} named data.{setting}={column} among {_listed(self._names)}"
        )

    def _only(self, name: str) -> int:
        if self._keys.count(name) > 1:
            raise self._twice(name)
        return self._keys.index(name)

    def _twice(self, name: str) -> DataError:
        return DataError(f"{self._place}: the column {name!r} occurs twice; remove one")

    def _chosen(self, choices: Sequence[int], what: str, name: str) -> int:
        if len(choices) == 1:
            shown = quoted(self._names[choices[0]])
            _log.info("%s: the column of %s is %s", self._place, what, shown)
            return choices[0]
        fix = f"set data.{name}_column (--{name}-column) to its name, or call it {name}"
        if not choices:
            raise DataError(
                f"{self._place}: no column of {what} is known among {_listed(self._names)}; {fix}"
            )
        shown = _listed([self._names[i] for i in choices])
        raise DataError(f"{self._place}: the column of {what} may be {shown}; {fix}")

    def _warn_of_unused(self) -> None:
        unused = [i for i in range(len(self._names)) if i not in self.used]
        names = [self._names[i] for i in unused if self._names[i].strip()]
        if names:
            _log.warning("%s: columns not used: %s", self._place, ", ".join(map(quoted, names)))
        odd = () if self._box else ambiguous_box([self._keys[i] for i in unused])
        if odd:
            _log.warning(
                "%s: %s looks like a box and is not used: images are whole pictures. Write it as "
                "x_1, y_1, x_2, y_2 (left, top, right, bottom), or as x_center, y_center, width, "
                "height, to use parts of the pictures",
                self._place, ", ".join(map(quoted, odd)),
            )  # fmt: skip


def parse_details(
    cells: Mapping[str, str], split: str | None = None, box: Sequence[str] = ()
) -> Details:
    """The details of a row; its box stays in its own unit (`unify_boxes`).

    Args:
        cells: by the names of their columns.
        split: that of the row where it names none itself.
        box: the columns of the box.

    Raises:
        MalformedRow: a cell has no meaning.
    """
    texts = {name: text.strip() for name, text in cells.items()}
    texts = {name: text for name, text in texts.items() if text.lower() not in _EMPTY}
    if "split" in cells and "split" not in texts:
        raise MalformedRow("the split is missing; every row needs one")
    return Details(
        box=parse_box(box, texts),
        split=split_name(texts["split"]) if "split" in texts else split,
        is_query=_flag(texts, "is_query"),
        is_gallery=_flag(texts, "is_gallery"),
        sequence=texts.get("sequence"),
        category=texts.get("category"),
        camera=texts.get("camera"),
    )


def _flag(texts: dict[str, str], name: str) -> bool | None:
    text = texts.get(name, "").lower()
    if text in _YES:
        return True
    if text in _NO:
        return False
    if text:
        raise MalformedRow(f"{name} is {quoted(text)}; write true or false")
    return None


def _weight(cell: str) -> float:
    text = cell.strip()
    if text.lower() in _EMPTY:
        return 1.0
    try:
        return parse_weight(text)
    except ValueError as error:
        raise MalformedRow(str(error)) from None


def _positions(names: Sequence[str], column: str) -> list[int]:
    """The positions of a column: as written, else in another spelling."""
    exact = [index for index, name in enumerate(names) if name.strip() == column.strip()]
    return exact or [i for i, name in enumerate(names) if column_key(name) == column_key(column)]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(quoted, names[:20])) + (", ..." if len(names) > 20 else "")


def _holds_images(sample: Sequence[Sequence[str]], index: int) -> bool:
    cells = [row[index] for row in sample[:SAMPLE] if index < len(row) and row[index].strip()]
    return bool(cells) and all(map(is_image_name, cells))


def _same_classes(some: Sequence[object], others: Sequence[object]) -> bool:
    """True for columns that divide the rows into the same classes."""
    pairs = len(set(zip(some, others, strict=False)))
    return len(some) == len(others) and pairs == len(set(some)) == len(set(others))
