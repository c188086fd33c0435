"""Lists with corrected labels, written as new files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lookalike import storage
from lookalike.data.readers import is_image_list, read_records
from lookalike.data.readers.annotation import (
    DEFAULT,
    Annotation,
    AnnotationOptions,
    MalformedRow,
    lines,
    parse_label,
    quoted,
    read_text,
)
from lookalike.data.readers.image_list import read as read_image_list
from lookalike.data.record import Record
from lookalike.errors import DataError, RunError
from lookalike.storage.local_files import writing

_COLUMNS = ("split", "is_query", "is_gallery", "sequence", "camera", "category")
_BOX = ("x_1", "y_1", "x_2", "y_2")


@dataclass(frozen=True)
class Correction:
    """A correction of one row.

    Attributes:
        line: of the list; 0 where it has no lines.
        image: `Record.place`.
        before: its label.
        after: its new label; None to leave the image out.
    """

    line: int
    image: str
    before: str
    after: str | None


def checked_label(text: str) -> str:
    """A label as a list holds it.

    Raises:
        DataError: it cannot be one.
    """
    try:
        return parse_label(text, labelled=True)
    except MalformedRow as error:
        raise DataError(str(error)) from None


def corrected_suffix(
    source: str, format: str = "auto", options: AnnotationOptions = DEFAULT
) -> str:
    """The suffix of a list with corrections: that of an image list, or `.csv` for all others."""
    if not is_image_list(source, format, options):
        return ".csv"
    return Path(storage.public(source).removesuffix(".gz")).suffix or ".txt"


def write_corrected(
    source: str,
    corrections: Sequence[Correction],
    target: Path,
    *,
    format: str = "auto",
    options: AnnotationOptions = DEFAULT,
) -> int:
    """Write a list with corrections; returns the number of its images.

    An image list stays as it is but for the corrected lines; its relative paths start at its own
    folder, and so the new one lies there. From all others a table as CSV is made, with the columns
    of Open Metric Learning and the full address of each image.

    Args:
        source: the list.
        corrections: one for a row.
        target: the new file.
        format: of the source; see `read_records`.
        options: by which it was read.

    Raises:
        DataError: the list has changed, a label is not possible in it, or its images lie inside
            of other files.
        RunError: the target exists, or an image list would move.
        StorageError: a file cannot be read or written.
    """
    records = read_records(source, format, options)
    found = {(one.line, one.place, one.label): one for one in records}
    wanted = {(one.line, one.image, one.before): one.after for one in corrections}
    if missing := wanted.keys() - found.keys():
        line, image, _ = min(missing)
        raise DataError(
            f"{storage.public(source)}{f':{line}' if line else ''}: has changed since it was "
            f"checked ({image}); check it again"
        )
    kept = []
    for one in records:
        after = wanted.get((one.line, one.place, one.label), one.label)
        if after is not None:
            kept.append(replace(one, label=after))
    if not kept:
        raise DataError(f"{storage.public(source)}: no image would be left")
    if is_image_list(source, format, options):
        text = _edited(source, {line: after for (line, _, _), after in wanted.items()})
        if options.image_root is None and not _is_beside(source, target):
            raise RunError(
                f"{target}: paths of {storage.public(source)} start at its folder; save the "
                "corrected list there too"
            )
        again = read_image_list(Annotation(source, options, text))
        if [(one.uri, one.label) for one in again] != [(one.uri, one.label) for one in kept]:
            labels = ", ".join(quoted(after) for after in wanted.values() if after is not None)
            raise DataError(f"{labels}: not a label of an image list, which has no blanks in it")
    else:
        text = _table(source, kept, options)
    with writing(target):
        try:
            with target.open("x", encoding="utf-8", newline="") as stream:
                stream.write(text)
        except FileExistsError:
            raise RunError(f"{target}: exists; choose another name") from None
    return len(kept)


def _is_beside(source: str, target: Path) -> bool:
    return not storage.is_remote(source) and target.parent == storage.path_of(source).parent


def _edited(source: str, labels: dict[int, str | None]) -> str:
    """The text of an image list with other labels on some lines, or without them."""
    found = []
    for number, line in enumerate(lines(read_text(source)), 1):
        after = labels.get(number, "")
        if number not in labels:
            found.append(line)
        elif after is not None:
            body = line.rstrip(" \t\r\n")
            label = max(body.rfind(" "), body.rfind("\t")) + 1
            found.append(body[:label] + after + line[len(body) :])
    return "".join(found)


def _table(source: str, records: Sequence[Record], options: AnnotationOptions) -> str:
    if any(one.member is not None for one in records):
        raise DataError(
            f"{storage.public(source)}: its images lie inside of files, which a list cannot name; "
            "correct the labels there"
        )
    details = [one.details for one in records]
    names = [c for c in _COLUMNS if any(getattr(d, c, None) is not None for d in details)]
    boxed = any(d is not None and d.box is not None for d in details)
    weight = options.weight_column
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(
        ["path", "label", *names, *(_BOX if boxed else ()), *([weight] if weight else ())]
    )
    for one, its in zip(records, details, strict=True):
        row: list[object] = [one.uri, one.label]
        row += [_cell(getattr(its, name, None)) for name in names]
        if boxed:
            row += ["", "", "", ""] if its is None or its.box is None else list(its.box)
        if weight:
            row.append(_cell(None if its is None else its.weight))
        table.writerow(row)
    return stream.getvalue()


def _cell(value: object) -> object:
    return "" if value is None else value
