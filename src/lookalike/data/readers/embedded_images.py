"""Images that lie in the rows of a table, as places whose bytes can be read at any time.

An Arrow file that is not compressed holds every image as it is: they are read in place. Parquet
does not (pages are compressed, and have to be read whole): its images are unpacked once, one after
the other, into a file of the cache, `$LOOKALIKE_CACHE/unpacked` or `~/.cache/lookalike/unpacked`,
whose name follows from the table's address, size and footer.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike import storage
from lookalike.data.decoding.image_formats import READ, format_of
from lookalike.data.readers.table_columns import PATHS, column_key
from lookalike.data.record import Member
from lookalike.errors import DataError, LookalikeError, StorageError, one_line, reason_of
from lookalike.storage.atomic import replacing
from lookalike.storage.cache_folder import cache_folder
from lookalike.storage.parquet_damage import damage_as_value_error

_ROWS = 4096  # of text at a time
_IMAGES = 64  # rows with images at a time
_SAMPLE = 32  # rows that are searched for images

EmbeddedRow = tuple[Member | None, str | None]
"""The bytes of an image, or the path in their stead."""
Batch = tuple[pa.RecordBatch, Sequence[EmbeddedRow] | None]
"""Rows without the column of images, and the image of each."""


@dataclass(frozen=True)
class Table:
    """A table, a batch of rows at a time."""

    schema: pa.Schema
    image: str | None  # the name of the column that holds images
    images: str  # the file in which their bytes lie
    batches: Iterator[Batch]


def hugging_face_feature(schema: pa.Schema, column: str) -> dict[str, Any]:
    """The feature of a column in Hugging Face's metadata; empty where there is none."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def open_arrow(file: str, column: str | None = None) -> Table:
    """An Arrow file of this machine, as a stream or with an index.

    `column` is that of images or paths, where it is known.

    Raises:
        StorageError: it cannot be read.
        DataError: it is no Arrow file, or is compressed.
    """
    place = storage.public(file)
    if storage.is_remote(file):
        raise DataError(f"{place}: Arrow files are read in place; copy it to this machine first")
    path = storage.local_path(file)
    try:
        whole = pa.memory_map(path).read_buffer()
        indexed = whole.size >= 6 and whole[:6].to_pybytes() == b"ARROW1"
        table = (pa.ipc.open_file if indexed else pa.ipc.open_stream)(whole).read_all()
        table.validate(full=True)  # offsets of a damaged file would lead anywhere
        head = table.slice(0, _SAMPLE)
        image = _image_column(table.schema, lambda name: head[name], place, column)
    except LookalikeError:
        raise
    except (pa.ArrowException, ValueError) as error:  # ValueError: a name that is no UTF-8
        raise DataError(f"{place}: not a whole Arrow file ({one_line(error, 100)})") from None
    except OSError as error:
        raise StorageError(f"{place}: {reason_of(error, 'cannot be read')}") from None

    def batches() -> Iterator[Batch]:
        first = 1
        for batch in table.to_batches(max_chunksize=_ROWS):
            if image is None:
                yield batch, None
                continue
            index = batch.schema.get_field_index(image)
            column = batch.column(index)
            members = _members_in(_bytes_of(column), whole, first, place)
            first += len(batch)
            images = list(zip(members, _paths_of(column), strict=True))
            yield batch.set_column(index, image, pa.nulls(len(batch))), images

    return Table(table.schema, image, path, batches())


def open_parquet(file: str, column: str | None = None) -> Table:
    """A Parquet file, local or remote; its images are unpacked unless they were before.

    `column` is that of images or paths, where it is known.

    Raises:
        StorageError: it cannot be read, or the cache cannot be written.
        DataError: it is no Parquet file.
    """
    place = storage.public(file)
    with _parquet(file) as (table, stream):
        schema = table.schema_arrow
        image = _image_column(schema, lambda name: _first_rows(table, name), place, column)
        blob = _unpacked(file, table, stream, image) if image else Path()

    def batches() -> Iterator[Batch]:
        sizes = np.load(blob.with_suffix(".npy"), allow_pickle=False) if image else np.zeros(0)
        ends = np.cumsum(np.maximum(sizes, 0))
        names = [name for name in schema.names if name != image]
        if image and (sizes < 0).any() and _has_paths(schema.field(image).type):
            names.append(f"{image}.path")
        row = 0
        with _parquet(file) as (table, _):
            for batch in table.iter_batches(_ROWS, columns=names):
                if image is None:
                    yield batch, None
                    continue
                rows = range(row, row + len(batch))
                row += len(batch)
                if row > len(sizes):
                    raise DataError(
                        f"{place}: not a whole Parquet file (its column {image!r} "
                        f"has {len(sizes):,} values, others have more)"
                    )
                members = [
                    Member(f"row {i + 1}", int(ends[i] - sizes[i]), int(sizes[i]))
                    if sizes[i] >= 0
                    else None
                    for i in rows
                ]
                index = schema.get_field_index(image)
                paths: Sequence[str | None] = [None] * len(batch)
                if image in batch.schema.names:
                    paths = _paths_of(batch.column(image))
                    batch = batch.drop_columns([image])
                images = list(zip(members, paths, strict=True))
                yield batch.add_column(index, image, pa.nulls(len(batch))), images

    return Table(schema, image, str(blob) if image else place, batches())


@contextmanager
def _parquet(file: str) -> Iterator[tuple[pq.ParquetFile, IO[bytes]]]:
    """A Parquet file and its stream; errors inside the block are about the file."""
    try:
        with storage.opened(file) as stream, damage_as_value_error():
            yield pq.ParquetFile(stream), stream
    except LookalikeError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{storage.public(file)}: not a whole Parquet file ({one_line(error, 100)})"
        ) from None


def _image_column(
    schema: pa.Schema, sample: Callable[[str], pa.Array], place: str, asked: str | None
) -> str | None:
    """The column of images, as bytes or as Hugging Face's `{bytes, path}`, if there is one.

    It is `asked`, the one that the metadata states, or the one whose `sample` holds images.
    """
    choices = [field.name for field in schema if _may_hold_images(field.type)]
    if asked is not None:
        choices = [name for name in choices if name == asked]
    stated = [n for n in choices if hugging_face_feature(schema, n).get("_type") == "Image"]
    if len(stated) == 1:
        return stated[0]
    choices = stated or choices
    values = {name: _bytes_of(sample(name)).to_pylist() for name in choices}
    found = [name for name in choices if any(map(_is_picture, values[name]))]
    if not found:  # paths alone, or damaged from the start
        known = [name for name in choices if asked is not None or column_key(name) in PATHS]
        found = [name for name in known if not any(map(_is_text, values[name]))]
    if len(found) > 1:
        by_name = [name for known in PATHS for name in found if column_key(name) == known]
        found = [name for name in by_name if name == "image"] or by_name or found
    if len(found) > 1:
        raise DataError(
            f"{place}: the column of images may be {', '.join(map(repr, found))}; set "
            "data.path_column (--path-column) to its name, or call it image"
        )
    return found[0] if found else None


def _is_picture(value: bytes | None) -> bool:
    return value is not None and format_of(value) in (*READ, "HEIC", "JPEG XL")


def _is_text(value: bytes | None) -> bool:
    """True for text that is stored as BINARY."""
    try:
        return bool(value) and (value or b"").decode().isprintable()
    except UnicodeDecodeError:
        return False


def _first_rows(table: pq.ParquetFile, name: str) -> pa.Array:
    batch = next(table.iter_batches(_SAMPLE, columns=[name]), None)
    return pa.nulls(0, pa.binary()) if batch is None else batch.column(0)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _may_hold_images(kind: pa.DataType) -> bool:
    """True for bytes, and for a struct of bytes and path of which one may be left out."""
    if not pa.types.is_struct(kind):
        return _is_binary(kind)
    place = kind.get_field_index("bytes")
    if place < 0 or pa.types.is_null(kind.field(place).type):
        return _has_paths(kind)
    return _is_binary(kind.field(place).type)


def _has_paths(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind) and kind.get_field_index("path") >= 0)


def _paths_of(column: pa.Array) -> list[str | None]:
    """The paths beside the bytes of images."""
    if not _has_paths(column.type):
        return [None] * len(column)
    values = column.flatten()[column.type.get_field_index("path")].to_pylist()
    return [value if isinstance(value, str) else None for value in values]


def _bytes_of(column: pa.Array) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if not pa.types.is_struct(column.type):
        return column
    place = column.type.get_field_index("bytes")
    if place < 0:
        return pa.nulls(len(column), pa.binary())
    # Not `field`, which forgets that the struct itself may be null.
    values = column.flatten()[place]
    # A column of nulls alone has no type of its own.
    return values.cast(pa.binary()) if pa.types.is_null(values.type) else values


def _members_in(column: pa.Array, whole: pa.Buffer, first: int, place: str) -> list[Member | None]:
    """The places of a column's values in the file; `first` is the number of its first row."""
    if column.null_count == len(column):  # which may have no buffers at all
        return [None] * len(column)
    _, offsets_at, data = column.buffers()
    if data is None or not data.size:  # nothing but nulls and empty images
        data = whole
    start, end = data.address - whole.address, data.address + data.size - whole.address
    if not 0 <= start <= end <= whole.size:
        raise DataError(f"{place}: a compressed Arrow file; write it without compression")
    kind = np.dtype(np.int64 if pa.types.is_large_binary(column.type) else np.int32)
    if (column.offset + len(column) + 1) * kind.itemsize > offsets_at.size:
        raise DataError(f"{place}: a damaged Arrow file (too few offsets of images)")
    offsets = np.frombuffer(offsets_at, kind, len(column) + 1, column.offset * kind.itemsize)
    return [
        Member(f"row {first + i}", start + int(offsets[i]), int(offsets[i + 1] - offsets[i]))
        if valid
        else None
        for i, valid in enumerate(column.is_valid().to_pylist())
    ]


def _unpacked(file: str, table: pq.ParquetFile, stream: IO[bytes], image: str) -> Path:
    """The images of a Parquet file, one after the other; their sizes lie beside as `.npy`."""
    end = stream.seek(0, os.SEEK_END)
    stream.seek(end - 8)
    footer = int.from_bytes(stream.read(4), "little")
    stream.seek(end - 8 - footer)
    remote = storage.is_remote(file)
    address = storage.public(file) if remote else os.path.abspath(storage.local_path(file))
    # The footer has no digest of the pixels: an edited table may have the same one.
    version = storage.version_of(file) if remote else os.stat(address).st_mtime_ns
    key = hashlib.sha256(f"{address}:{end}:{version}:{image}:".encode() + stream.read(footer))
    folder = cache_folder() / "unpacked"
    blob = folder / f"{key.hexdigest()[:32]}.images"
    index = blob.with_suffix(".npy")
    # The index is renamed last: where it is, the blob is whole.
    if index.exists() and blob.exists():
        return blob
    try:
        with replacing(index, shared=True) as sizes, replacing(blob, shared=True) as images:
            _unpack(table, image, images, sizes)
    except OSError as error:
        if error.errno is None:  # pyarrow's, about the table
            raise
        raise StorageError(
            f"{folder}: the images of {storage.public(file)} cannot be unpacked there: "
            f"{reason_of(error)}; set LOOKALIKE_CACHE to another folder"
        ) from None
    return blob


def _unpack(table: pq.ParquetFile, image: str, blob: Path, index: Path) -> None:
    sizes: list[int] = []
    with blob.open("wb") as stream:
        for batch in table.iter_batches(_IMAGES, columns=[image]):
            for value in _bytes_of(batch.column(0)).to_pylist():
                sizes.append(-1 if value is None else len(value))
                stream.write(value or b"")
    with index.open("wb") as stream:
        np.save(stream, np.array(sizes, np.int64))
