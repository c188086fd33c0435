"""Lists that can be read only once: standard input, and files of a shell's `<(...)`.

A run reads its list in every worker, when it resumes and in later commands. So such a list is
kept as a table in the cache, `$LOOKALIKE_CACHE/lists` or `~/.cache/lookalike/lists`.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence

from lookalike import storage
from lookalike.data.readers.annotation import DEFAULT, AnnotationOptions
from lookalike.data.readers.written_table import table_text
from lookalike.data.record import Record
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
    content = table_text(records, options).encode("utf-8", "surrogateescape")
    path = cache_folder() / "lists" / f"{hashlib.sha256(content).hexdigest()[:32]}.csv"
    try:
        storage.write_bytes(str(path), content)
    except StorageError as error:
        raise StorageError(
            f"the list cannot be kept in the cache: {error}; set LOOKALIKE_CACHE to another folder"
        ) from None
    return str(path)
