"""Checks of the sizes that a file claims against its bytes, before memory is allocated for them.

The first bytes of a `.npy` file and the last of a Parquet file state its size. Damaged or forged,
they can claim terabytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from lookalike.errors import DataError, LookalikeError

_LONGEST_HEADER = 10_000  # bytes; NumPy's own limit
_SAVE = "write it by numpy.save, one array of shape (images, dimensions)"
MOST_OF_A_BYTE = 65536
"""Values that one byte of a Parquet file may stand for: of equal ones, few bytes can hold many."""


def read_npy(
    stream: IO[bytes],
    size: int,
    place: str,
    error: type[LookalikeError] = DataError,
    fix: str = _SAVE,
) -> np.ndarray:
    """The array of a `.npy` file, (shape and type as in the file), without pickled objects.

    Args:
        stream: at the beginning of the file.
        size: bytes of the file.
        place: its name, for messages.
        error: the class of errors.
        fix: the end of their messages.

    Raises:
        LookalikeError: it is no such file, or claims another size than it has.
    """
    shape, kind, fortran = npy_header(stream, size, place, error, fix)
    content = stream.read()
    flat = np.frombuffer(bytearray(content), kind, int(np.prod(shape, dtype=object)))
    return flat.reshape(shape, order="F" if fortran else "C")


def npy_header(
    stream: IO[bytes],
    size: int,
    place: str,
    error: type[LookalikeError] = DataError,
    fix: str = _SAVE,
) -> tuple[tuple[int, ...], np.dtype, bool]:
    """Shape, type and order of a `.npy` file whose bytes are all there; see `read_npy`."""
    try:
        version = np.lib.format.read_magic(stream)
        read: Callable[..., Any] = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, kind = read(stream, max_header_size=_LONGEST_HEADER)
        if any(length < 0 for length in shape):
            raise ValueError("a negative length")
    except Exception:  # NumPy parses the header as Python: SyntaxError, TokenError and more
        raise error(f"{place}: not a .npy file of numbers; {fix}") from None
    if kind.hasobject:
        raise error(f"{place}: not a .npy file of numbers: it holds pickled objects; {fix}")
    claimed = int(np.prod(shape, dtype=object)) * kind.itemsize
    there = size - stream.tell()
    if claimed != there:
        raise error(
            f"{place}: damaged: its header claims {kind} of shape {shape}, {claimed:,} bytes, and "
            f"the file holds {there:,}; {fix}"
        )
    return shape, kind, bool(fortran)


def check_parquet(metadata: Any, size: int, place: str) -> None:
    """Refuse a Parquet file whose footer claims more than the file can hold.

    `metadata` is a `pyarrow.parquet.FileMetaData`, `size` the bytes of the file.

    Raises:
        DataError: it does.
    """

    def refuse(what: str) -> DataError:
        return DataError(
            f"{place}: damaged: its footer claims {what}, and the file has {size:,} bytes; write "
            "or copy it again"
        )

    most = size * MOST_OF_A_BYTE
    if not 0 <= metadata.num_rows <= most:
        raise refuse(f"{metadata.num_rows:,} rows")
    for group in range(metadata.num_row_groups):
        found = metadata.row_group(group)
        if not 0 <= found.num_rows <= most:
            raise refuse(f"{found.num_rows:,} rows in row group {group}")
        for number in range(found.num_columns):
            column = found.column(number)
            packed, whole = column.total_compressed_size, column.total_uncompressed_size
            begin = column.dictionary_page_offset or column.data_page_offset
            if packed < 0 or begin < 0 or begin + packed > size:
                raise refuse(f"{packed:,} bytes in column {column.path_in_schema}")
            if not 0 <= whole <= max(most, 1) or not 0 <= column.num_values <= most:
                raise refuse(f"{column.num_values:,} values in column {column.path_in_schema}")


def size_of(stream: IO[bytes]) -> int:
    """Bytes of an open file, whose position does not change."""
    here = stream.tell()
    size = stream.seek(0, io.SEEK_END)
    stream.seek(here)
    return size
