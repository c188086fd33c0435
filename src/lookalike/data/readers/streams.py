"""Lists that can be read only once: standard input, and what a shell's `<(...)` opens.

A run reads its list in every worker, when it is resumed and in later commands. So such a list is
kept as a table in the cache, `$LOOKALIKE_CACHE/lists` or `~/.cache/lookalike/lists`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import sys
import tempfile
from collections.abc import Sequence

from lookalike import storage
from lookalike.data.readers.reader_options import PLAIN, Reading
from lookalike.data.record import Details, Record
from lookalike.errors import ConfigError, StorageError
from lookalike.storage.cache_folder import cache_folder

STANDARD_INPUT = "standard input"
"""Its name in messages; relative paths in it start at the current directory."""

_OPENED = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
_OTHERS = ("split", "is_query", "is_gallery", "category", "sequence", "camera")
_BOX = ("x_1", "y_1", "x_2", "y_2")


def is_stream(uri: str) -> bool:
    """Whether `uri` is `-`, standard input, or a file that a shell opened for this process."""
    return uri == "-" or uri.startswith(_OPENED)


def read_stream(uri: str) -> bytes:
    """All that comes from it.

    Raises:
        ConfigError: there is no standard input.
        StorageError: it cannot be read.
    """
    if uri == "-":
        if sys.stdin is None or sys.stdin.closed:
            raise ConfigError("-: there is no standard input; name a file")
        return sys.stdin.buffer.read()
    return storage.read_bytes(uri)


def kept(records: Sequence[Record], how: Reading = PLAIN) -> str:
    """The path of a table with the same images: of the same content, the same path.

    Args:
        records: of text, so that none lies inside of a larger file.
        how: how the table will be read, which may name its columns.

    Raises:
        StorageError: it cannot be written.
    """
    text = io.StringIO()
    said = [record.details for record in records if record.details is not None]
    names = [name for name in _OTHERS if any(getattr(d, name) is not None for d in said)]
    boxed = any(details.box for details in said)
    writer = csv.writer(text, lineterminator="\n")
    first = (how.path_column or "path", how.label_column or "label")
    writer.writerow([*first, *names, *(_BOX if boxed else ())])
    for record in records:
        details = record.details or Details()
        uri = record.uri
        if not storage.is_remote(uri):
            uri = os.path.abspath(storage.local_path(uri))
        cells = [_cell(getattr(details, name)) for name in names]
        box = (details.box or [""] * len(_BOX)) if boxed else ()
        writer.writerow([uri, record.label, *cells, *box])
    content = text.getvalue().encode("utf-8", "surrogateescape")
    folder = cache_folder() / "lists"
    path = folder / f"{hashlib.sha256(content).hexdigest()[:32]}.csv"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            file = os.path.join(aside, "list")
            with open(file, "wb") as stream:
                stream.write(content)
            os.replace(file, path)
    except OSError as error:
        raise StorageError(
            f"{folder}: the list cannot be kept there: {(error.strerror or '').lower()}; set "
            "LOOKALIKE_CACHE to another folder"
        ) from None
    return str(path)


def _cell(value: object) -> str:
    return "" if value is None else str(value)
