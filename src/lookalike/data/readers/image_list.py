"""The image list: one `path label` a line, as the component's ClsSourceImageList reads it."""

from __future__ import annotations

from lookalike import storage
from lookalike.data.readers.annotation import (
    IMAGE_SUFFIXES,
    BadRows,
    Malformed,
    label_in,
    lines,
    malformed,
    quoted,
    read_text,
    unusable,
)
from lookalike.data.readers.reader_options import PLAIN, Reading
from lookalike.data.record import Record
from lookalike.errors import DataError

_BLANKS = " \t"


def read(uri: str, text: str | None = None, how: Reading = PLAIN) -> list[Record]:
    r"""The records of an image list.

    Each line is `path label`, split at the last run of blanks (spaces or tabs), so that paths may
    hold blanks and labels may not; a label that looks like an image's file name while the path does
    not is a forgotten label. Lines that are blank or begin with `#` are skipped. Relative
    paths start at the list's folder; absolute paths and URIs are kept. UTF-8 with or without a
    byte order mark, lines that end in `\n` or `\r\n`, plain or gzipped.

    Args:
        uri: the list.
        text: its content, if the caller has read it already.
        how: what to look for. Where labels are not needed, a line whose last word looks like an
            image's file name while what is before it does not is a path alone.

    Raises:
        StorageError: the list cannot be read.
        DataError: bad lines (all reported together, the first ten in full), or no records.
    """
    text = read_text(uri) if text is None else text
    source = storage.public(uri)
    resolve = how.resolver(uri)
    labels: dict[str, str] = {}  # as written -> shortest form; also keeps one object a label
    records: list[Record] = []
    bad = BadRows()
    for number, line in enumerate(lines(text), 1):
        line = line.strip(" \t\r\n")
        if not line or line[0] == "#":
            continue
        cut = line.rfind(" ")
        if "\t" in line:
            cut = max(cut, line.rfind("\t"))
        path, label = line[: max(cut, 0)].rstrip(_BLANKS), line[cut + 1 :]
        if not how.labelled and (not path or _unlabelled(path, label)):
            path, label = line, ""
        # isprintable() is one quick pass, and false for every character that could be wrong.
        if not path or not (path.isprintable() and label.isprintable()) or "." in label:
            complaint = _complaint(line, path, label)
            if complaint:
                bad.add(f"{source}:{number}", complaint)
                continue
        known = labels.get(label)
        if known is None:
            try:
                known = labels[label] = label_in(label, how.labelled)
            except Malformed as error:
                bad.add(f"{source}:{number}", str(error))
                continue
        if ":" in path and malformed(path):
            bad.add(f"{source}:{number}", f"{quoted(path)} is not a valid URI; correct it")
            continue
        try:
            place = resolve(path)
        except Malformed as error:
            bad.add(f"{source}:{number}", str(error))
            continue
        records.append(Record(place, known, source, number))
    how.settle(bad)
    if not records and not bad.found:
        raise DataError(f"{source}: the list holds no images; write one a line: path label")
    return records


def _unlabelled(path: str, label: str) -> bool:
    """Whether a line is a path alone: `my cat.jpg` splits into a path and a label, too."""
    return label.lower().endswith(IMAGE_SUFFIXES) and not path.lower().endswith(IMAGE_SUFFIXES)


def _complaint(line: str, path: str, label: str) -> str | None:
    """What is wrong with a line, and the fix; None if it is only unusual."""
    if unusable(path) or unusable(label):
        return f"{quoted(line)} holds a control character; remove it"
    if not path or _unlabelled(path, label):
        return f"{quoted(line)} has no label; write: path label"
    return None
