"""Files of vectors, read: Parquet, or NumPy's .npy with the names of its images beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lookalike import storage
from lookalike.data.readers.annotation import read_text
from lookalike.data.readers.boxes import BOX
from lookalike.data.readers.table_columns import LABELS, PATHS
from lookalike.data.record import Details, Record
from lookalike.errors import ConfigError, DataError, LookalikeError, one_line
from lookalike.storage.claimed_sizes import check_parquet, npy_header, size_of
from lookalike.storage.parquet_damage import damage_as_value_error

SUFFIXES = (".parquet", ".npy")
ROLES = ("is_query", "is_gallery", "sequence", "camera")
_VECTORS = ("vector", "embedding", "vectors", "embeddings")
BLOCK_ROWS = 16384  # of a .npy file at a time


def is_array(uri: str) -> bool:
    """True for the name of a `.npy` file."""
    return uri.split("?", 1)[0].endswith(".npy")


def beside(uri: str, name: str) -> str:
    """The text file beside a `.npy` file: NAME.paths.txt, NAME.labels.txt or NAME.ids.txt."""
    place, mark, query = uri.partition("?")
    return f"{place.removesuffix('.npy')}.{name}.txt{mark}{query}"


def lines_beside(uri: str, name: str, count: int) -> list[str] | None:
    """The `count` lines of a text file beside a `.npy` file; None where there is none.

    Raises:
        DataError: there are more or fewer.
    """
    file = beside(uri, name)
    if not is_array(uri) or not storage.exists(file):
        return None
    found = [line.rstrip("\r") for line in read_text(file).removesuffix("\n").split("\n")]
    if len(found) != count:
        raise DataError(
            f"{storage.public(file)}: {len(found):,} {name} of {count:,} vectors; they were "
            "not written together: write both again, or remove it"
        )
    return found


def models_of(uri: str) -> list[str] | None:
    """The fingerprints of the model of the vectors in a Parquet file of `embed`; else None.

    One is its own; where it is an export, another is that of the trained model.

    Raises:
        StorageError: it cannot be read.
    """
    if not storage.split_query(uri)[0].endswith(".parquet"):
        return None
    try:
        with storage.opened(uri) as stream, damage_as_value_error():
            metadata = pq.read_schema(stream).metadata or {}
        about = json.loads(metadata[b"lookalike"])
        models = [str(about["model"]), str(about.get("trained") or about["model"])]
    except (KeyError, ValueError, TypeError, AttributeError, OSError, pa.ArrowException):
        return None  # a table, but not one of ours
    return models


def read_vectors(
    uri: str, *, labels: bool = True
) -> Iterator[tuple[np.ndarray, dict[str, list[Any]]]]:
    """The vectors of a file of any program, some thousand rows at a time.

    Args:
        uri: `.parquet` with a column of lists, or `.npy`, (N, D).
        labels: whether those beside a `.npy` file are read.

    Yields:
        (n, D) floats, not always finite, and the columns of these rows: `path` (`FILE[ROW]`, rows
        counted from 0, where it is not known) and, where they are there, `label`, `ROLES`, `BOX`.

    Raises:
        ConfigError: its name ends in neither .npy nor .parquet.
        DataError: they are no vectors, or the file is damaged.
        StorageError: it cannot be read.
    """
    if is_array(uri):
        return _of_npy(uri, labels)
    if storage.split_query(uri)[0].endswith(".parquet"):
        return _of_parquet(uri)
    raise ConfigError(f"{storage.public(uri)}: embeddings are files that end in .npy or .parquet")


def read_images(uri: str) -> Iterator[tuple[list[Record], np.ndarray]]:
    """The vectors of `read_vectors`, and the images that they are of.

    Images inside of larger files are named, but cannot be read by that.

    Raises:
        DataError: they are no vectors, or a row has no path.
        StorageError: the file cannot be read.
    """
    place, row = storage.public(uri), 0
    for vectors, columns in read_vectors(uri):
        records = []
        labels = columns.get("label") or [None] * len(vectors)
        boxes = zip(*(columns[name] for name in BOX), strict=True) if BOX[0] in columns else None
        for path, label in zip(columns["path"], labels, strict=True):
            row += 1
            if not isinstance(path, str):
                raise DataError(f"{place}: row {row:,} has no path; embed the images again")
            details = None if boxes is None else _details(next(boxes))
            line = row if is_array(uri) else 0
            label = "" if label is None else str(label)
            records.append(Record(path, label, place, line, details=details))
        yield records, vectors


def _details(box: Sequence[float | None]) -> Details | None:
    if None in box:
        return None
    relative = any(isinstance(side, float) for side in box)
    return Details(box=tuple(box), relative=relative)  # type: ignore[arg-type]


def _of_npy(uri: str, labels: bool) -> Iterator[tuple[np.ndarray, dict[str, list[Any]]]]:
    with storage.opened(uri) as stream:
        shape, kind, fortran = npy_header(stream, size_of(stream), storage.public(uri))
        _check(uri, kind, shape)
        count, width = shape
        names = lines_beside(uri, "ids", count) or lines_beside(uri, "paths", count)
        texts = {"path": names or _row_names(uri, 0, count)}
        if labels and (found := lines_beside(uri, "labels", count)):
            texts["label"] = found
        step = count if fortran else BLOCK_ROWS  # whose columns lie one after the other
        for begin in range(0, count, step):
            rows = slice(begin, min(begin + step, count))
            content = stream.read((rows.stop - begin) * width * kind.itemsize)
            some = np.frombuffer(content, kind).reshape(-1, width, order="F" if fortran else "C")
            yield (
                some.astype(kind.newbyteorder("=")),
                {name: text[rows] for name, text in texts.items()},
            )


def _of_parquet(uri: str) -> Iterator[tuple[np.ndarray, dict[str, list[Any]]]]:
    place = storage.public(uri)
    try:
        with storage.opened(uri) as stream, damage_as_value_error():
            size = size_of(stream)
            file = pq.ParquetFile(stream)
            check_parquet(stream, size, place)
            there = file.schema_arrow.names
            name = _first(_VECTORS, there)
            if name is None:
                raise DataError(f"{place}: no column of vectors, called {', '.join(_VECTORS)}")
            sources = {role: role for role in (*ROLES, *BOX) if role in there}
            for role, usual in (("path", PATHS), ("label", LABELS)):
                if found := _first(usual, there):
                    sources[role] = found
            row, width = 0, -1
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=[name, *sources.values()])
                if not len(table):
                    continue
                vectors = _matrix(table[name], f"{place}: the column {name}", row, width)
                width = vectors.shape[1]
                columns = {role: table[source].to_pylist() for role, source in sources.items()}
                columns.setdefault("path", _row_names(uri, row, len(table)))
                row += len(table)
                _check(uri, vectors.dtype, vectors.shape)
                yield vectors, columns
    except LookalikeError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
        raise DataError(
            f"{place}: damaged, or not a Parquet file ({one_line(error, 100)}); write it again"
        ) from None


def _first(names: Sequence[str], there: Sequence[str]) -> str | None:
    return next((name for name in names if name in there), None)


def _check(uri: str, kind: np.dtype, shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or kind.kind != "f" or 0 in shape:
        fix = "; write them as float32" if kind.kind in "iub" else ""
        raise DataError(
            f"{storage.public(uri)}: not vectors: expected (images, dimensions) of floats, found "
            f"{kind} of shape {shape}{fix}"
        )


def _row_names(uri: str, first: int, count: int) -> list[str]:
    place = storage.unsigned(uri)
    return [f"{place}[{row}]" for row in range(first, first + count)]


def _matrix(column: pa.ChunkedArray, place: str, first: int, width: int) -> np.ndarray:
    """A column of lists of numbers as (n, D) floats.

    Args:
        column: of n rows, at least one.
        place: it, for messages.
        first: its first row in the file, from 0.
        width: D, as in earlier rows; -1 where there are none.
    """
    kind = column.type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not (lists or pa.types.is_fixed_size_list(kind)) or not _is_number(kind.value_type):
        raise DataError(f"{place} holds {kind}; expected lists of numbers, one for each image")
    lengths = pc.list_value_length(column).fill_null(-1).to_numpy()
    width = int(lengths[0]) if width < 0 else width
    empty, other = np.flatnonzero(lengths < 0), np.flatnonzero(lengths != width)
    if len(empty):
        raise DataError(
            f"{place}: row {first + empty[0] + 1:,} holds no vector; leave that image out"
        )
    if len(other):
        raise DataError(
            f"{place}: row {first + other[0] + 1:,} has {lengths[other[0]]:,} numbers, row 1 has "
            f"{width:,}; all must have the same dimension"
        )
    values = pc.list_flatten(column)
    if values.null_count:
        at = first + int(pc.is_null(values).to_numpy().argmax()) // width
        raise DataError(f"{place}: row {at + 1:,} lacks a number; leave that image out")
    flat = values.to_numpy()
    return (flat if flat.dtype.kind == "f" else flat.astype(np.float32)).reshape(-1, max(width, 1))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))
