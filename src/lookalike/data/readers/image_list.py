"""The image list: one `path label` a line, as the component's ClsSourceImageList reads it."""

from __future__ import annotations

from lookalike.data.decoding.image_formats import IMAGE_SUFFIXES
from lookalike.data.readers.annotation import (
    Annotation,
    BadRows,
    MalformedRow,
    has_control_characters,
    is_invalid_uri,
    lines,
    parse_labels,
    quoted,
)
from lookalike.data.record import Details, Record, with_labels
from lookalike.data.record_table import RecordTable
from lookalike.errors import ConfigError


def read(annotation: Annotation) -> RecordTable:
    r"""The records of an image list.

    Each line is `path label`, split at the last run of blanks (spaces or tabs), so that paths may
    hold blanks and labels may not, nor the text between several labels. Lines that are blank or
    begin with `#` are skipped. UTF-8 with or without a byte order mark, lines that end in `\n` or
    `\r\n`, plain or gzipped.

    A last word like an image's file name after something unlike one (`my cat.jpg`) is a part of
    the path, and the label is missing.

    Raises:
        StorageError: the list cannot be read.
        DataError: bad lines, or no records.
    """
    source, options = annotation.name, annotation.options
    labelled, separator = options.labelled, options.label_separator
    if separator is not None and separator.strip() != separator:
        raise ConfigError(
            f"data.label_separator={separator!r}: in a list blanks stand between path and label; "
            "write another sign between labels, as |"
        )
    resolve = annotation.resolver()
    # As written -> canonical, and details with further ones; also keeps one object of each.
    labels: dict[str, tuple[str, Details | None]] = {}
    records = RecordTable()
    bad = BadRows()
    for number, line in enumerate(lines(annotation.text), 1):
        line = line.strip(" \t\r\n")
        if not line or line[0] == "#":
            continue
        cut = line.rfind(" ")
        if "\t" in line:
            cut = max(cut, line.rfind("\t"))
        path, label = line[: max(cut, 0)].rstrip(" \t"), line[cut + 1 :]
        if not labelled and (not path or _is_path_alone(path, label)):
            path, label = line, ""
        try:
            # isprintable() is one quick pass, and false for every character that could be wrong.
            if not path or not (path.isprintable() and label.isprintable()) or "." in label:
                _check(line, path, label)
            known = labels.get(label)
            if known is None:
                found = parse_labels(label, options)
                known = labels[label] = found[0], with_labels(None, found)
            if ":" in path and is_invalid_uri(path):
                raise MalformedRow(f"{quoted(path)} is not a valid URI; correct it")
            records.append(Record(resolve(path), known[0], source, number, None, known[1]))
        except MalformedRow as error:
            bad.add(f"{source}:{number}", error)
    return annotation.finish(records, bad, "the list holds no images; write one a line: path label")


def _is_path_alone(path: str, label: str) -> bool:
    return label.lower().endswith(IMAGE_SUFFIXES) and not path.lower().endswith(IMAGE_SUFFIXES)


def _check(line: str, path: str, label: str) -> None:
    if has_control_characters(path) or has_control_characters(label):
        raise MalformedRow(f"{quoted(line)} holds a control character; remove it")
    if not path or _is_path_alone(path, label):
        raise MalformedRow(f"{quoted(line)} has no label; write: path label")
