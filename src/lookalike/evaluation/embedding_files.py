"""Embeddings in files, of any trainer, and what a table says of their images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from lookalike import storage
from lookalike.data.readers.annotation import BadRows, MalformedRow, parse_label
from lookalike.data.readers.table_columns import LABELS, PATHS, SEQUENCE_OR_CAMERA, parse_details
from lookalike.data.readers.table_rows import cell_text
from lookalike.data.record import Details
from lookalike.errors import ConfigError, DataError
from lookalike.storage.claimed_sizes import check_parquet, read_npy

_VECTORS = ("vector", "embedding", "vectors", "embeddings")
_ROLES = ("is_query", "is_gallery", "sequence", "camera")
_ROWS = 16384  # that are looked at together


def read(uri: str) -> tuple[Tensor, dict[str, list[Any]]]:
    """The vectors of a `.npy` or `.parquet` file, and the other columns of a table.

    Returns:
        (N, D) floats as they are, finite, and the known columns by name.

    Raises:
        DataError: they are no embeddings.
        StorageError: the file cannot be read.
    """
    place, content = storage.public(uri), storage.read_bytes(uri)
    columns: dict[str, list[Any]] = {}
    if uri.endswith(".npy"):
        vectors = _from_npy(content, place)
    elif uri.endswith(".parquet"):
        vectors, columns = _from_parquet(content, place)
    else:
        raise ConfigError(f"{place}: embeddings are files that end in .npy or .parquet")
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or not vectors.size:
        fix = "; write them as float32" if vectors.dtype.kind in "iub" else ""
        raise DataError(
            f"{place}: not embeddings: expected (images, dimensions) of floats, found "
            f"{vectors.dtype} of shape {vectors.shape}{fix}"
        )
    for begin in range(0, len(vectors), _ROWS):
        broken = ~np.isfinite(vectors[begin : begin + _ROWS]).all(1)
        if broken.any():
            raise DataError(
                f"{place}: vector {begin + int(broken.argmax()):,} (from 0) is not finite: it "
                "holds NaN or infinity; leave that image out, or embed it anew"
            )
    kind = np.float64 if vectors.dtype.itemsize > 8 else vectors.dtype.newbyteorder("=")
    return torch.from_numpy(vectors.astype(kind)), columns


def labels_of(columns: dict[str, list[Any]], uri: str) -> list[str]:
    """The labels in a table.

    Raises:
        DataError: there are none, or missing ones (all reported together).
    """
    for name in LABELS:
        if name in columns:
            return _checked(columns[name], storage.public(uri))
    raise DataError(
        f"{storage.public(uri)}: no column of labels; give them with --labels, one a line"
    )


def _checked(cells: Sequence[Any], place: str) -> list[str]:
    bad = BadRows()
    labels = []
    for number, cell in enumerate(cells, 1):
        try:
            labels.append(parse_label(cell_text(cell), labelled=True))
        except MalformedRow as error:
            bad.add(f"{place}:{number}", str(error))
    bad.raise_any()
    return labels


def details_in(columns: dict[str, list[Any]], count: int, place: str) -> list[Details | None]:
    """What a table says of who asks and who is searched, read as in any other table.

    Raises:
        DataError: cells without a meaning, all reported together.
    """
    there = [name for name in _ROLES if name in columns]
    if not there:
        return [None] * count
    if {"sequence", "camera"} <= set(there):
        raise DataError(f"{place}: {SEQUENCE_OR_CAMERA}; leave out one of the two columns")
    found: list[Details | None] = []
    bad = BadRows()
    for number, cells in enumerate(zip(*(columns[name] for name in there), strict=True), 1):
        texts = {
            name: str(cell) for name, cell in zip(there, cells, strict=True) if cell is not None
        }
        try:
            found.append(parse_details(texts))
        except MalformedRow as error:
            bad.add(f"{place}:{number}", error)
    bad.raise_any()
    return found


def _from_npy(content: bytes, place: str) -> np.ndarray:
    return read_npy(io.BytesIO(content), len(content), place)


def _from_parquet(content: bytes, place: str) -> tuple[np.ndarray, dict[str, list[Any]]]:
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        check_parquet(file.metadata, len(content), place)
        table = file.read()
    except (pa.ArrowException, OSError, MemoryError) as error:
        raise DataError(f"{place}: not a Parquet file: {error}") from None
    name = next((name for name in _VECTORS if name in table.column_names), None)
    if name is None:
        raise DataError(f"{place}: no column of vectors, called {', '.join(_VECTORS)}")
    vectors = _matrix(table[name], f"{place}: the column {name}")
    known = (*PATHS, *LABELS, *_ROLES)
    wanted = [name for name in known if name in table.column_names]
    return vectors, table.select(wanted).to_pydict()


def _matrix(column: pa.ChunkedArray, place: str) -> np.ndarray:
    """A column of lists of numbers as (N, D) floats."""
    kind = column.type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not (lists or pa.types.is_fixed_size_list(kind)) or not _is_number(kind.value_type):
        raise DataError(f"{place} holds {kind}; expected lists of numbers, one for each image")
    lengths = pc.list_value_length(column).fill_null(-1).to_numpy()
    if len(lengths) == 0:
        return np.empty((0, 0), np.float32)
    other = np.flatnonzero(lengths != lengths[0])
    empty = np.flatnonzero(lengths < 0)
    if len(empty):
        raise DataError(f"{place}: row {empty[0] + 1:,} holds no vector; leave that image out")
    if len(other):
        raise DataError(
            f"{place}: row {other[0] + 1:,} has {lengths[other[0]]:,} numbers, row 1 has "
            f"{lengths[0]:,}; all must be of one length"
        )
    values = pc.list_flatten(column)
    if values.null_count:
        at = int(pc.is_null(values).to_numpy().argmax()) // int(lengths[0])
        raise DataError(f"{place}: row {at + 1:,} lacks a number; leave that image out")
    flat = values.to_numpy()
    if flat.dtype.kind != "f":
        flat = flat.astype(np.float32)
    return flat.reshape(len(lengths), -1)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)
