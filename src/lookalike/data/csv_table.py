"""Tables as text: CSV with a comma, semicolon, tab or bar between the cells."""

from __future__ import annotations

import csv

from lookalike import storage
from lookalike.data.annotation import lines, read_text
from lookalike.data.record import Record
from lookalike.data.table import Columns, delimiter_of, text_records
from lookalike.errors import DataError


def read(uri: str, text: str | None = None, *, labelled: bool = True) -> list[Record]:
    """The records of a CSV file whose first line names its columns.

    Cells may be quoted as in RFC 4180; a record's line is where its row ends. See
    `lookalike.data.table` for the columns.

    Args:
        uri: the file, plain or gzipped.
        text: its content, if the caller has read it already.
        labelled: an image without a label is a mistake; else its label is "".

    Raises:
        StorageError: the file cannot be read.
        DataError: bad rows (all reported together, the first ten in full), or no rows.
    """
    text = read_text(uri) if text is None else text
    source = storage.public(uri)
    header = text.partition("\n")[0]
    rows = csv.reader(lines(text), delimiter=delimiter_of(header), strict=True)
    try:
        names = next(rows, None)
        if names is None:
            raise DataError(f"{source}: an empty file; write a first line: path,label")
        columns = Columns(names, f"{source}:1", labelled=labelled)
        filled = ((rows.line_num, cells) for cells in rows if any(map(str.strip, cells)))
        return text_records(filled, columns, len(names), uri)
    except csv.Error as error:
        raise DataError(f"{source}:{rows.line_num}: not CSV ({error})") from None
