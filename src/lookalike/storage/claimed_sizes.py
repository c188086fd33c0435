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
from lookalike.storage.parquet_footer import read_footer

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
        stream: at the beginning of the file, of `size` bytes.

    Raises:
        LookalikeError: it is no such file, or claims another size than it has: an `error` about
            `place` that ends with the `fix`.
    """
    shape, kind, fortran = npy_header(stream, size, place, error, fix)
    flat = np.frombuffer(bytearray(stream.read()), kind)
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


def check_parquet(stream: IO[bytes], size: int, place: str) -> None:
    """Refuse an open Parquet file whose footer claims more than its `size` in bytes can hold.

    Raises:
        DataError: it does, or the footer is damaged.
    """

    def refuse(what: str) -> DataError:
        return DataError(
            f"{place}: damaged: its footer claims {what}, and the file has {size:,} bytes; write "
            "or copy it again"
        )

    most = size * MOST_OF_A_BYTE
    try:
        footer = read_footer(stream, size)
        if not 0 <= footer.rows <= most:
            raise refuse(f"{footer.rows:,} rows")
        for number, group in enumerate(footer.groups):
            if not 0 <= group.rows <= most:
                raise refuse(f"{group.rows:,} rows in row group {number}")
            for column in group.columns:
                begin, packed = column.begin, column.compressed
                if packed < 0 or begin < 0 or begin + packed > size:
                    raise refuse(f"{packed:,} bytes in column {column.path!r}")
                if not 0 <= column.uncompressed <= max(most, 1) or not 0 <= column.values <= most:
                    raise refuse(f"{column.values:,} values in column {column.path!r}")
    except ValueError as error:
        raise DataError(
            f"{place}: its footer is damaged ({error}); write or copy it again"
        ) from None


def size_of(stream: IO[bytes]) -> int:
    """Bytes of an open file, whose position does not change."""
    here = stream.tell()
    size = stream.seek(0, io.SEEK_END)
    stream.seek(here)
    return size
