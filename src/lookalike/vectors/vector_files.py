"""Parts merged into one file: Parquet, or NumPy's .npy with the paths beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike import storage
from lookalike.data.readers.annotation import read_text
from lookalike.data.record import Details, Record
from lookalike.errors import DataError
from lookalike.storage.claimed_sizes import check_parquet, npy_header, size_of
from lookalike.storage.local_files import writing
from lookalike.vectors.vector_parts import Part, Parts

SUFFIXES = (".parquet", ".npy")
_ROWS = 16384  # of a row group: 32 MiB of 512 numbers each


def merge(parts: Parts, records: Sequence[Record], folder: Path, name: str) -> list[Path]:
    """Write the file `name` and what belongs beside it into `folder`.

    Memory holds one row group, whatever the number of parts.

    Args:
        parts: all there.
        records: the images.
        folder: where to.
        name: NAME.parquet or NAME.npy.

    Returns:
        The files, on the disk; the one that was asked for comes last.
    """
    kind = _parquet if name.endswith(".parquet") else _npy
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        files = kind(parts, records, folder / name)
        for file in files:
            with file.open("rb+") as stream:
                os.fsync(stream.fileno())
    return files


def is_array(uri: str) -> bool:
    """Whether a place is a `.npy` file, by its name."""
    return uri.split("?", 1)[0].endswith(".npy")


def beside(uri: str, name: str) -> str:
    """The text file beside a `.npy` file: NAME.paths.txt, NAME.labels.txt or NAME.ids.txt."""
    place, mark, query = uri.partition("?")
    return f"{place.removesuffix('.npy')}.{name}.txt{mark}{query}"


def lines_beside(uri: str, name: str, count: int) -> list[str] | None:
    """The lines of such a file, one for each of so many vectors; None where there is none.

    Raises:
        DataError: there are more or fewer.
    """
    file = beside(uri, name)
    if not storage.exists(file):
        return None
    found = [line.rstrip("\r") for line in read_text(file).removesuffix("\n").split("\n")]
    if len(found) != count:
        raise DataError(
            f"{storage.public(file)}: {len(found):,} {name} of {count:,} vectors; they are not "
            "of one writing: write both again, or remove it"
        )
    return found


def read_array(uri: str) -> Iterator[tuple[list[Record], np.ndarray]]:
    """Images and vectors of a `.npy` file, (N, D) floats, some thousand rows at a time.

    Ids are the lines of NAME.ids.txt or of NAME.paths.txt, where there is one, and otherwise
    `FILE[ROW]`, rows counted from 0. Labels are those of NAME.labels.txt.

    Raises:
        DataError: they are no vectors, or the files do not fit together.
        StorageError: a file cannot be read.
    """
    place = storage.public(uri)
    with storage.opened(uri) as stream:
        shape, kind, fortran = npy_header(stream, size_of(stream), place)
        if len(shape) != 2 or kind.kind != "f" or not shape[0] or not shape[1]:
            raise DataError(
                f"{place}: {kind} of shape {shape}; vectors are floats (images, numbers)"
            )
        ids = lines_beside(uri, "ids", shape[0]) or lines_beside(uri, "paths", shape[0])
        labels = lines_beside(uri, "labels", shape[0])
        if fortran:
            columns = np.frombuffer(stream.read(), kind).reshape(shape, order="F")
        for begin in range(0, shape[0], _ROWS):
            rows = range(begin, min(begin + _ROWS, shape[0]))
            if fortran:
                vectors = columns[rows.start : rows.stop]
            else:
                content = stream.read(len(rows) * shape[1] * kind.itemsize)
                vectors = np.frombuffer(content, kind).reshape(len(rows), shape[1])
            records = [
                Record(
                    ids[row] if ids else f"{storage.lasting(uri)}[{row}]",
                    labels[row] if labels else "",
                    place,
                    row + 1,
                )
                for row in rows
            ]
            yield records, vectors.astype(kind.newbyteorder("="))


def models_of(uri: str) -> list[str] | None:
    """The fingerprints of the model of the vectors in a Parquet file of ours; else None.

    One is its own; where it is an export, another is that of the trained model.

    Raises:
        StorageError: it cannot be read.
    """
    if not storage.split_query(uri)[0].endswith(".parquet"):
        return None
    try:
        with storage.opened(uri) as stream:
            metadata = pq.read_schema(stream).metadata or {}
        about = json.loads(metadata[b"lookalike"])
        models = [str(about["model"]), str(about.get("trained") or about["model"])]
    except (KeyError, ValueError, TypeError, AttributeError, OSError, pa.ArrowException):
        return None  # a table, but not one of ours
    return models


def read(uri: str) -> Iterator[tuple[list[Record], np.ndarray]]:
    """Images and vectors of a file that `merge` wrote, a row group at a time.

    Images inside of larger files are named, but cannot be read by that.

    Raises:
        DataError: it is damaged.
    """
    place = storage.public(uri)
    with storage.opened(uri) as stream:
        try:
            size = size_of(stream)
            file = pq.ParquetFile(stream)
            check_parquet(file.metadata, size, place)
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                flat = table["vector"].combine_chunks().flatten().to_numpy()
                texts = [table[name].cast(pa.string()) for name in ("path", "label")]
                if texts[0].null_count:
                    raise ValueError("a row without a path")
                boxes = [table[name] for name in _BOX if name in table.schema.names]
                rows = zip(*(column.to_pylist() for column in (*texts, *boxes)), strict=True)
                yield [_record(uri, *row) for row in rows], flat.reshape(len(table), -1)
        except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
            reason = str(error).strip().splitlines()
            raise DataError(
                f"{place}: damaged ({reason[0][:100] if reason else type(error).__name__}); embed "
                "the images again"
            ) from None


def _record(uri: str, path: str, label: str | None, *box: float | None) -> Record:
    numbers = [number for number in box if number is not None]
    details = None
    if len(numbers) == 4:
        relative = any(isinstance(number, float) for number in numbers)
        details = Details(box=tuple(numbers), relative=relative)  # type: ignore[arg-type]
    return Record(path, label or "", storage.public(uri), 0, details=details)


def path_of(record: Record) -> str:
    """The image in a column of paths: its URI without secrets, its name inside a larger file."""
    uri = storage.lasting(record.uri)
    return f"{uri}: {record.member.name}" if record.member else uri


def _each(parts: Parts) -> Iterator[Part]:
    for number in range(parts.request.parts):
        yield parts.read(number)


def _parquet(parts: Parts, records: Sequence[Record], file: Path) -> list[Path]:
    dim = parts.request.dim
    boxes = [r.details for r in records if r.details is not None and r.details.box]
    relative = any(details.relative for details in boxes)
    if relative and not all(details.relative for details in boxes):
        raise DataError(
            "some boxes are in pixels and others in shares of the picture, which one file cannot "
            "hold; embed the lists one by one"
        )
    unit = pa.float64() if relative else pa.int32()
    fields = [pa.field("path", pa.string()), pa.field("label", pa.string())]
    fields += [pa.field(name, unit) for name in _BOX if boxes]
    fields.append(pa.field("vector", pa.list_(pa.float32(), dim)))
    note = {"dim": dim, "unit_length": True, "model": parts.request.model}
    note |= {"trained": parts.request.trained} if parts.request.trained else {}
    schema = pa.schema(fields, metadata={"lookalike": json.dumps(note)})
    # Unit vectors are noise to a compressor and to a dictionary.
    plain = {"compression": {"vector.list.element": "NONE"}, "use_dictionary": ["label"]}
    with pq.ParquetWriter(file, schema, **plain) as writer:
        rows: list[np.ndarray] = []
        vectors: list[np.ndarray] = []

        def flush() -> None:
            if rows:
                some = [records[row] for row in np.concatenate(rows).tolist()]
                writer.write_table(_table(some, np.concatenate(vectors), schema))
                rows.clear()
                vectors.clear()

        for part in _each(parts):
            rows.append(part.rows)
            vectors.append(part.vectors)
            if sum(map(len, rows)) >= _ROWS:
                flush()
        flush()
    return [file]


_BOX = ("x_1", "y_1", "x_2", "y_2")  # left, top, right, bottom, as lists have them


def _table(records: Sequence[Record], vectors: np.ndarray, schema: pa.Schema) -> pa.Table:
    columns: dict[str, pa.Array] = {
        "path": pa.array(map(path_of, records), pa.string()),
        "label": pa.array((record.label or None for record in records), pa.string()),
    }
    if _BOX[0] in schema.names:
        boxes = [record.details.box if record.details else None for record in records]
        for name, at in zip(_BOX, (0, 1, 2, 3), strict=True):
            values = (box[at] if box else None for box in boxes)
            columns[name] = pa.array(values, schema.field(name).type)
    flat = pa.array(vectors.reshape(-1), pa.float32())
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    return pa.table(columns, schema=schema)


def _npy(parts: Parts, records: Sequence[Record], file: Path) -> list[Path]:
    stem = file.name.removesuffix(".npy")
    paths, labels = file.with_name(f"{stem}.paths.txt"), file.with_name(f"{stem}.labels.txt")
    labelled = any(record.label for record in records)
    shape = (parts.sizes(), parts.request.dim)
    with (
        file.open("wb") as stream,
        paths.open("w", encoding="utf-8", newline="\n") as path_lines,
        labels.open("w", encoding="utf-8", newline="\n") as label_lines,
    ):
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for part in _each(parts):
            stream.write(np.ascontiguousarray(part.vectors, "<f4").data)
            for row in part.rows.tolist():
                path_lines.write(path_of(records[row]) + "\n")
                label_lines.write(records[row].label + "\n")
    if labelled:
        return [paths, labels, file]
    labels.unlink()
    return [paths, file]


def outdated(name: str, files: Sequence[Path]) -> list[str]:
    """Names of files that an earlier writing of `name` may have left, and that are not among these.

    They would be taken for labels of the new vectors.
    """
    beside = f"{name.removesuffix('.npy')}.labels.txt"
    written = {file.name for file in files}
    return [beside] if name.endswith(".npy") and beside not in written else []
