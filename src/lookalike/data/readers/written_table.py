"""Records written as a table that is read as the same records."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence

from lookalike import storage
from lookalike.data.readers.annotation import AnnotationOptions
from lookalike.data.readers.boxes import BOX
from lookalike.data.readers.table_columns import DETAILS, column_key
from lookalike.data.record import Details, Record


def table_text(records: Sequence[Record], options: AnnotationOptions) -> str:
    """The text of a table of these records, with the full address of each image.

    It will be read with `options`, which may name its columns.
    """
    details = [one.details or Details() for one in records]
    separator = options.label_separator or ""
    columns: dict[str, list[object]] = {
        options.path_column or "path": [_address(one.uri) for one in records],
        options.label_column or "label": [separator.join(one.labels) for one in records],
    }
    for name in DETAILS:
        if any(getattr(one, name) is not None for one in details):
            columns[name] = [getattr(one, name) for one in details]
    for level, name in enumerate(options.coarser_columns):
        if column_key(name) not in map(column_key, columns):  # `category` may be there already
            columns[name] = [one.coarser[level] if one.coarser else None for one in details]
    if options.weight_column is not None:
        columns[options.weight_column] = [one.weight for one in details]
    if any(one.box is not None for one in details):
        for at, name in enumerate(BOX):
            columns[name] = [None if one.box is None else one.box[at] for one in details]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))  # None becomes an empty cell
    return text.getvalue()


def _address(uri: str) -> str:
    return uri if storage.is_remote(uri) else os.path.abspath(storage.local_path(uri))
