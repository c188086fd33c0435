"""Lists that can be read only once: standard input, and files of a shell's `<(...)`.

A run reads its list in every worker, when it resumes and in later commands. So such a list is
kept as a table in the cache, `$LOOKALIKE_CACHE/lists` or `~/.cache/lookalike/lists`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import sys
from collections.abc import Sequence

from lookalike import storage
from lookalike.data.readers.annotation import DEFAULT, AnnotationOptions
from lookalike.data.readers.boxes import BOX
from lookalike.data.readers.table_columns import DETAILS
from lookalike.data.record import Details, Record
from lookalike.errors import ConfigError, StorageError
from lookalike.storage.cache_folder import cache_folder

STANDARD_INPUT = "standard input"
"""Its name in messages; relative paths in it start at the current directory."""

_OPENED = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")


def is_stream(uri: str) -> bool:
    """True for `-`, standard input, and for files that a shell opened for this process."""
    return uri == "-" or uri.startswith(_OPENED)


def read_stream(uri: str) -> bytes:
    """The content of a stream; a ConfigError where there is no standard input."""
    if uri == "-":
        if sys.stdin is None or sys.stdin.closed:
            raise ConfigError("-: there is no standard input; name a file")
        return sys.stdin.buffer.read()
    return storage.read_bytes(uri)


def keep_list(records: Sequence[Record], options: AnnotationOptions = DEFAULT) -> str:
    """The path of a table of these records in the cache; the same content has the same path.

    It will be read with `options`, which may name its columns.

    Raises:
        StorageError: it cannot be written.
    """
    text = io.StringIO()
    details = [record.details or Details() for record in records]
    names = [name for name in DETAILS if any(getattr(d, name) is not None for d in details)]
    box_names = BOX if any(each.box for each in details) else ()
    writer = csv.writer(text, lineterminator="\n")
    first = (options.path_column or "path", options.label_column or "label")
    weight = [] if options.weight_column is None else [options.weight_column]
    writer.writerow([*first, *names, *options.coarser_columns, *weight, *box_names])
    for record, each in zip(records, details, strict=True):
        uri = record.uri
        if not storage.is_remote(uri):
            uri = os.path.abspath(storage.local_path(uri))
        cells = (getattr(each, name) for name in names)  # None becomes an empty cell
        box = (each.box or [""] * len(BOX)) if box_names else ()
        weights = [each.weight] if weight else []
        label = (options.label_separator or "").join(record.labels)
        writer.writerow([uri, label, *cells, *each.coarser, *weights, *box])
    content = text.getvalue().encode("utf-8", "surrogateescape")
    path = cache_folder() / "lists" / f"{hashlib.sha256(content).hexdigest()[:32]}.csv"
    try:
        storage.write_bytes(str(path), content)
    except StorageError as error:
        raise StorageError(
            f"the list cannot be kept in the cache: {error}; set LOOKALIKE_CACHE to another folder"
        ) from None
    return str(path)
