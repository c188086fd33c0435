"""Tables as text: a comma, semicolon, tab, bar or blanks between the cells."""

from __future__ import annotations

import csv
import logging
from itertools import islice

from lookalike import storage
from lookalike.data.readers.annotation import read_text
from lookalike.data.readers.column_layout import Layout, layout_of
from lookalike.data.readers.reader_options import PLAIN, Reading
from lookalike.data.readers.table_rows import Columns, text_records
from lookalike.data.record import Record
from lookalike.errors import DataError

_log = logging.getLogger(__name__)

_SAMPLE = 200  # rows


def read(
    uri: str, text: str | None = None, how: Reading = PLAIN, *, layout: Layout | None = None
) -> list[Record]:
    """The records of a table whose first line names its columns, or whose content tells them.

    Cells may be quoted as in RFC 4180; a record's line is where its row ends. See
    `table_rows` for the columns, and `column_layout` for those without names.

    Args:
        uri: the file, plain or gzipped.
        text: its content, if the caller has read it already.
        how: what to look for.
        layout: of the text, if the caller knows it.

    Raises:
        StorageError: the file cannot be read.
        DataError: bad rows (all reported together, the first ten in full), or no rows.
    """
    text = read_text(uri) if text is None else text
    source = storage.public(uri)
    if not text.strip():
        raise DataError(f"{source}: an empty file; write a first line: path,label")
    found = layout or layout_of(text, source, how, certain=True)
    if found is None:
        raise DataError(f"{source}:1: no names of columns; write a first line: path,label")
    if not found.header:
        _log.info("%s: columns without names, taken for %s", source, ", ".join(found.names))
    try:
        sample = [cells for _, cells in islice(found.rows(text), _SAMPLE)]
        columns = Columns(
            found.names, sample, f"{source}:1", how, column=lambda i: _column(found, text, i)
        )
        return text_records(found.rows(text), columns, len(found.names), uri, how)
    except csv.Error as error:
        raise DataError(f"{source}:{error}") from None


def _column(layout: Layout, text: str, index: int) -> list[str]:
    """All cells of a column."""
    return [cells[index] for _, cells in layout.rows(text) if index < len(cells)]
