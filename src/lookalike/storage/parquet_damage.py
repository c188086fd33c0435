"""Errors of pyarrow on damaged Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def damage_as_value_error() -> Iterator[None]:
    """Raise ValueError where pyarrow raises a bare OSError, which is that of a storage elsewhere.

    Those of the system have a number, and those of clients of storage a type of their own.
    """
    try:
        yield
    except OSError as error:
        if type(error) is OSError and error.errno is None:
            raise ValueError(str(error)) from None
        raise
