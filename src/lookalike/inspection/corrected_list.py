"""Lists with corrected labels, written as new files."""

from __future__ import annotations

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
    parse_labels,
    quoted,
    read_text,
)
from lookalike.data.readers.csv_table import read as read_table
from lookalike.data.readers.image_list import label_start
from lookalike.data.readers.image_list import read as read_image_list
from lookalike.data.readers.written_table import table_text
from lookalike.data.record import Details, Record, with_labels
from lookalike.errors import DataError, RunError
from lookalike.storage.local_files import writing


@dataclass(frozen=True)
class Correction:
    """A correction of one row.

    Attributes:
        line: of the list; 0 where it has no lines.
        image: `Record.place`.
        before: its label, or its labels with the separator between.
        after: its new label or labels; None to leave the image out.
    """

    line: int
    image: str
    before: str
    after: str | None


def checked_label(text: str, separator: str | None = None) -> str:
    """A label as a list holds it; with a separator, one or several.

    Raises:
        DataError: it cannot be one.
    """
    try:
        labels = parse_labels(text, AnnotationOptions(label_separator=separator))
    except MalformedRow as error:
        raise DataError(str(error)) from None
    return (separator or "").join(labels)


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
    of Open Metric Learning, those that `options` name, and the full address of each image. Columns
    that training does not read are left out. `options` read the new list as they read the source.

    Args:
        source: the list.
        corrections: one for a row.
        target: the new file.
        format: of the source; see `read_records`.
        options: by which it was read.

    Raises:
        DataError: the list has changed, a label is not possible in it, its images lie inside of
            other files, or a table cannot hold what it says about an image.
        RunError: the target exists, or an image list would move.
        StorageError: a file cannot be read or written.
    """
    separator = options.label_separator or ""
    records = read_records(source, format, options)
    rows = [(one.line, one.place, separator.join(one.labels)) for one in records]
    wanted = {
        (one.line, one.image, one.before): None
        if one.after is None
        else checked_label(one.after, options.label_separator)
        for one in corrections
    }
    if missing := wanted.keys() - set(rows):
        line, image, _ = min(missing)
        raise DataError(
            f"{storage.public(source)}{f':{line}' if line else ''}: has changed since it was "
            f"checked ({image}); check it again"
        )
    kept = []
    for one, row in zip(records, rows, strict=True):
        if row not in wanted:
            kept.append(one)
        elif (after := wanted[row]) is not None:
            kept.append(_labelled(one, parse_labels(after, options)))
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
        if [(one.uri, one.labels) for one in again] != [(one.uri, one.labels) for one in kept]:
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
            found.append(body[: label_start(body)] + after + line[len(body) :])
    return "".join(found)


def _labelled(record: Record, labels: Sequence[str]) -> Record:
    """The record with these labels instead of its own."""
    details = record.details
    if details is not None:
        details = replace(details, further_labels=())
    return replace(record, label=labels[0], details=with_labels(details, labels))


def _weighted(record: Record) -> Record:
    """The record with the weight that it counts with."""
    details = record.details or Details()
    weight = 1.0 if details.weight is None else details.weight
    return replace(record, details=replace(details, weight=weight))


def _table(source: str, records: Sequence[Record], options: AnnotationOptions) -> str:
    """The text of a table of these records, which `options` read as them.

    Raises:
        DataError: it would be read as something else.
    """
    if any(one.member is not None for one in records):
        raise DataError(
            f"{storage.public(source)}: its images lie inside of files, which a list cannot name; "
            "correct the labels there"
        )
    if options.weight_column is not None:  # in lists without the column the weight is 1
        records = [_weighted(one) for one in records]
    text = table_text(records, options)
    _check_table(source, records, text, options)
    return text


def _check_table(
    source: str, records: Sequence[Record], text: str, options: AnnotationOptions
) -> None:
    """Check that a table is read as these records.

    Raises:
        DataError: it is not.
    """
    canonical = storage.canonicalizer()
    try:
        again = read_table(Annotation(source, options, text))
    except DataError as error:
        fault = str(error).partition("\n")[0]
        raise DataError(f"cannot be saved as a table, which would have a fault: {fault}") from None
    for one, other in zip(records, again, strict=True):
        was, now = ((each.labels, each.details or Details()) for each in (one, other))
        if was != now or canonical(one.uri) != canonical(other.uri):
            raise DataError(
                f"{one.origin}: cannot be saved as a table, where {one.place} would be read with "
                "another path, label or column; correct the list itself"
            )
