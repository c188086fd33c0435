"""Bounding boxes in tables: columns of corners or of centre and size, in pixels or fractions.

    x_1, y_1, x_2, y_2 (also x1.., xmin, ymin, xmax, ymax, left, top, right, bottom)
    x_center, y_center, width, height (also cx, cy, w, h): YOLO's

All boxes of an annotation are in one unit: fractions of the picture's width and height where none
reaches 2 and some are no whole numbers; in pixels none of these would be larger than one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from lookalike.data.readers.annotation import BadRows, MalformedRow, quoted
from lookalike.data.record import LEAST_SIDE, Details
from lookalike.data.record_table import RecordTable
from lookalike.log import counted

_log = logging.getLogger(__name__)

Corners = tuple[float, float, float, float]
"""Left, top, right, bottom; the last two exclusive."""

BOX = ("x_1", "y_1", "x_2", "y_2")
_CORNERS = (
    BOX,
    ("x1", "y1", "x2", "y2"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("left", "top", "right", "bottom"),
    ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"),
    ("x0", "y0", "x1", "y1"),
)
_CENTRES = (
    ("x_center", "y_center", "width", "height"),
    ("x_centre", "y_centre", "width", "height"),
    ("x_center", "y_center", "w", "h"),
    ("cx", "cy", "w", "h"),
    ("cx", "cy", "width", "height"),
)
# One corner and a size in some programs, two corners or a centre in others.
_AMBIGUOUS_GROUPS = tuple(
    (f"{before}x", f"{before}y", f"{before}{width}", f"{before}{height}")
    for before in ("", "bbox_", "box_")
    for width, height in (("w", "h"), ("width", "height"))
)
_AMBIGUOUS = ("bbox", "box", "bboxes", "boxes", "bounding_box", "xywh", "xyxy")
_LARGEST = 1e9  # pixels; far above what any format holds, and an int64
_MOST_RELATIVE = 2.0  # a box may stick out of its picture a little


def box_columns(names: Sequence[str]) -> tuple[str, ...]:
    """The columns of the box among lower-case names, if there is one.

    Raises:
        MalformedRow: a part is missing, or there are several boxes.
    """
    there = set(names)
    whole = [group for group in (*_CORNERS, *_CENTRES) if there.issuperset(group)]
    if len(whole) > 1:
        listed = " and ".join(", ".join(group) for group in whole[:2])
        raise MalformedRow(f"two boxes, {listed}; leave out one of them")
    if whole:
        return whole[0]
    for group in _CORNERS:
        missing = [name for name in group if name not in there]
        least = 1 if group is BOX else 3  # other names have other meanings, too
        if len(group) - len(missing) >= least:
            raise MalformedRow(
                f"a box has the columns {', '.join(group)}; {', '.join(missing)} missing"
            )
    return ()


def ambiguous_box(names: Sequence[str]) -> tuple[str, ...]:
    """The columns among lower-case names that look like a box of unknown meaning."""
    single = tuple(name for name in names if name in _AMBIGUOUS)
    groups = [group for group in _AMBIGUOUS_GROUPS if set(names).issuperset(group)]
    return single or next(iter(groups), ())


def parse_box(columns: Sequence[str], texts: Mapping[str, str]) -> Corners | None:
    """The box of a row, in the unit as written; `texts` are the cells that are not empty.

    Raises:
        MalformedRow: it is incomplete, not of numbers, or empty.
    """
    cells = [texts[name] for name in columns if name in texts]
    if not cells:
        return None
    if len(cells) < len(columns):
        raise MalformedRow(f"the box is not complete; write all of {', '.join(columns)} or none")
    numbers = [_number(cell) for cell in cells]
    if not all(map(math.isfinite, numbers)):
        raise MalformedRow(f"the box {', '.join(map(quoted, cells))} is not four numbers")
    if max(map(abs, numbers)) > _LARGEST:
        raise MalformedRow(f"the box {', '.join(map(quoted, cells))} is larger than any picture")
    left, top, right, bottom = numbers
    if tuple(columns) in _CENTRES:
        x, y, width, height = numbers
        left, top, right, bottom = x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if left >= right or top >= bottom or right <= 0 or bottom <= 0:
        fault = "upside down or empty" if left >= right or top >= bottom else "outside the picture"
        raise MalformedRow(f"the box x {left:g} to {right:g}, y {top:g} to {bottom:g} is {fault}")
    # Whole numbers are settled already, if these are pixels.
    whole = all(map(float.is_integer, (left, top, right, bottom)))
    return (int(left), int(top), int(right), int(bottom)) if whole else (left, top, right, bottom)


def unify_boxes(records: RecordTable, bad: BadRows, place: str) -> RecordTable:
    """The records of an annotation with boxes in one unit; those with bad ones go to `bad`."""
    if not records.has_boxes:
        return records
    relative = all(-_MOST_RELATIVE < side < _MOST_RELATIVE for side in _sides(records))
    if relative and all(side in (0, 1) for side in _sides(records)):
        bad.add(
            place,
            "the boxes consist of 0 and 1 alone, which may be pixels or fractions of the picture; "
            "leave the box out where it is the whole picture",
        )
        return RecordTable()
    in_unit = _relative if relative else _in_pixels
    if relative:
        _log.info("%s: boxes are fractions of the width and height of the pictures", place)
    found = RecordTable()
    small: list[str] = []
    for record in records:
        details = record.details
        if details is not None and details.box:
            if relative or not isinstance(details.box[0], int):
                try:
                    details = replace(details, box=in_unit(details.box), relative=relative)
                except MalformedRow as error:
                    bad.add(record.origin, error)
                    continue
                record = replace(record, details=details)
            if not relative and _shorter_side(details) < LEAST_SIDE:
                small.append(record.origin)
        found.append(record)
    if small:
        _log.warning(
            "%s: %s a side of less than %d pixels, the first in %s; these count as bad images",
            place, counted(len(small), "box has", "boxes have"), LEAST_SIDE, small[0],
        )  # fmt: skip
    return found


def _sides(records: RecordTable) -> Iterator[float]:
    for record in records:
        if record.details is not None and record.details.box:
            yield from record.details.box


def _in_pixels(box: Corners) -> Corners:
    left, top, right, bottom = map(round, box)
    if left >= right or top >= bottom:
        raise MalformedRow(
            f"the box x {box[0]:g} to {box[2]:g}, y {box[1]:g} to {box[3]:g} has less than a "
            "pixel; where boxes are fractions of the picture, all of the list must be"
        )
    return left, top, right, bottom


def _relative(box: Corners) -> Corners:
    # In float32, tables hold 0.1 as 0.10000000149: the same box has one form.
    left, top, right, bottom = (float(round(min(max(side, 0.0), 1.0), 6)) for side in box)
    if left >= right or top >= bottom:
        raise MalformedRow(
            f"the box x {box[0]:g} to {box[2]:g}, y {box[1]:g} to {box[3]:g} (fractions of the "
            "picture) is empty"
        )
    return left, top, right, bottom


def _shorter_side(details: Details) -> float:
    assert details.box is not None
    left, top, right, bottom = details.box
    return min(right - left, bottom - top)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
