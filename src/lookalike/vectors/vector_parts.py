"""Vectors that are written part by part, and merged into one file.

    manifest.json     the request: the model, the images, how many and of which dimension
    000012.part       safetensors: rows and vectors of the part, and the images that cannot be read

A part appears whole, by a rename, after its bytes are on the disk. So after a kill the parts that
are there are right, and the others are made again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors
from safetensors.numpy import save_file

from lookalike import storage
from lookalike.data.readers.boxes import BOX
from lookalike.data.record import Record
from lookalike.errors import DataError, RunError
from lookalike.storage.atomic import replacing, sync
from lookalike.storage.local_files import writing

MANIFEST = "manifest.json"
_ROW_GROUP = 16384  # rows: 32 MiB of 512 numbers each


@dataclass(frozen=True)
class Request:
    """The vectors that are asked for; parts of different requests are never mixed.

    Attributes:
        model: the embedder's fingerprint.
        images: the fingerprint of the list, `fingerprint_of`.
        count: images N.
        dim: numbers D of a vector.
        size: images of a part.
        trained: the fingerprint of the trained model with whose vectors these may be compared.
    """

    model: str
    images: str
    count: int
    dim: int
    size: int
    trained: str = ""

    @property
    def parts(self) -> int:
        """The number of parts."""
        return -(-self.count // self.size)

    def rows(self, number: int) -> range:
        """The images of a part."""
        return range(number * self.size, min((number + 1) * self.size, self.count))


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        rows: (M,) int64, ascending: the images that could be read.
        vectors: (M, D) float32.
        bad: the reasons for the others.
    """

    rows: np.ndarray
    vectors: np.ndarray
    bad: dict[int, str]


class Parts:
    """The parts of a request, in a folder of this machine."""

    def __init__(self, folder: Path, request: Request) -> None:
        self.folder = folder
        self.request = request

    def begin(self, *, restart: bool) -> None:
        """Make the folder, or resume one of the same request; with `restart` drop its parts.

        Raises:
            RunError: there are parts of another request.
        """
        if restart:
            shutil.rmtree(self.folder, ignore_errors=True)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        manifest = self.folder / MANIFEST
        if manifest.exists():
            self._compare(_read_manifest(manifest))
        else:  # without it no part counts
            for path in self.folder.glob("*.part*"):
                path.unlink()
            storage.write_text(manifest, json.dumps(asdict(self.request)))

    def _compare(self, before: dict[str, object]) -> None:
        now = asdict(self.request)
        if before == now:
            return
        what = "another model" if before.get("model") != now["model"] else "another list of images"
        if before.get("images") == now["images"] and before.get("model") == now["model"]:
            what = "another version of lookalike"
        raise RunError(
            f"{self.folder}: holds parts of {what} ({len(self.done())} of them, "
            f"{before.get('count')} images asked for then, {now['count']} now), which are never "
            "mixed; repeat the first command to finish it, or add --restart to drop them"
        )

    def path(self, number: int) -> Path:
        """The file of a part."""
        return self.folder / f"{number:06d}.part"

    def done(self) -> set[int]:
        """The numbers of the parts that are there."""
        return {int(path.stem) for path in self.folder.glob("*.part")}

    def missing(self) -> list[int]:
        """The numbers of the other parts."""
        done = self.done()
        return [number for number in range(self.request.parts) if number not in done]

    def write(self, number: int, part: Part) -> None:
        """Write a part."""
        bad = json.dumps({str(row): reason for row, reason in part.bad.items()})
        tensors = {"rows": part.rows, "vectors": part.vectors}
        with writing(self.folder), replacing(self.path(number)) as partial:
            save_file(tensors, partial, metadata={"bad": bad})

    def read(self, number: int) -> Part:
        """A part; a RunError where it is damaged."""
        with self._stored(number) as stored:
            rows, vectors = stored.get_tensor("rows"), stored.get_tensor("vectors")
            bad = json.loads(stored.metadata()["bad"])
        return Part(rows, vectors, {int(row): reason for row, reason in bad.items()})

    def all(self) -> Iterator[Part]:
        """All parts in order; see `read`."""
        return map(self.read, range(self.request.parts))

    def sizes(self) -> int:
        """The number of vectors in all parts, by their headers; see `read`."""
        total = 0
        for number in range(self.request.parts):
            with self._stored(number) as stored:
                total += stored.get_slice("rows").get_shape()[0]
        return total

    @contextmanager
    def _stored(self, number: int) -> Iterator[Any]:
        """The open file of a part; an error inside the block means that it is damaged."""
        path = self.path(number)
        try:
            with safetensors.safe_open(path, "numpy") as stored:
                yield stored
        except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
            raise RunError(f"{path}: damaged ({error}); remove it and resume") from None

    def remove_part(self, number: int) -> None:
        """Remove a part, which is then missing."""
        self.path(number).unlink()

    def remove(self) -> None:
        """Remove the folder, first the manifest: without it no part counts."""
        (self.folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(self.folder)


def _read_manifest(manifest: Path) -> dict[str, object]:
    try:
        found = json.loads(manifest.read_bytes())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RunError(f"{manifest}: is broken; add --restart to drop what is done")
    return found


def by_part(
    batches: Iterable[tuple[np.ndarray, np.ndarray]], numbers: Sequence[int], request: Request
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Number, (M,) rows and (M, D) vectors of one part after the other, also of empty ones.

    Args:
        batches: (b,) rows and (b, D) vectors, in the order of the parts; none is in two parts.
        numbers: of these parts, ascending.
    """
    rows: list[np.ndarray] = []
    vectors: list[np.ndarray] = []

    def collected() -> tuple[np.ndarray, np.ndarray]:
        empty = np.empty((0, request.dim), np.float32)
        both = np.concatenate([np.empty(0, np.int64), *rows]), np.concatenate([empty, *vectors])
        rows.clear()
        vectors.clear()
        return both

    waiting = list(reversed(numbers))
    for some, their in batches:
        # Batches come in order: the first of a later part ends all parts before it.
        while int(some[0]) // request.size != waiting[-1]:
            yield waiting.pop(), *collected()
        rows.append(some)
        vectors.append(their)
    while waiting:
        yield waiting.pop(), *collected()


def fingerprint_of(records: Sequence[Record]) -> str:
    """32 hexadecimal digits of a list: images, parts of them, labels, order."""
    digest = hashlib.sha256()
    for record in records:
        box = record.details.box if record.details is not None else None
        where = record.byte_range
        text = f"{record.uri}\0{record.label}\0{where or ''}\0{box or ''}\n"
        digest.update(text.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def merge(parts: Parts, records: Sequence[Record], folder: Path, name: str) -> list[Path]:
    """Write NAME.parquet, or NAME.npy with the paths and labels beside it, into `folder`.

    Memory holds one row group, whatever the number of parts.

    Returns:
        The files, on the disk; the one that was asked for comes last.
    """
    write = _write_parquet if name.endswith(".parquet") else _write_npy
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        files = write(parts, records, folder / name)
        for file in files:
            sync(file)
    return files


def outdated(name: str, files: Sequence[Path]) -> list[str]:
    """Names of files that an earlier writing of `name` may have left, and that are not among these.

    They would be taken for labels of the new vectors.
    """
    labels = f"{name.removesuffix('.npy')}.labels.txt"
    written = {file.name for file in files}
    return [labels] if name.endswith(".npy") and labels not in written else []


def _path_of(record: Record) -> str:
    """The absolute path, or the URI without secrets, and the name inside a larger file."""
    uri = storage.absolute(storage.unsigned(record.uri))
    return f"{uri}: {record.member.name}" if record.member else uri


def _write_parquet(parts: Parts, records: Sequence[Record], file: Path) -> list[Path]:
    boxes = [r.details for r in records if r.details is not None and r.details.box]
    relative = any(details.relative for details in boxes)
    if relative and not all(details.relative for details in boxes):
        raise DataError(
            "some boxes are in pixels and others in fractions of the picture, which one file "
            "cannot hold; embed the lists one by one"
        )
    unit = pa.float64() if relative else pa.int32()
    fields = [pa.field("path", pa.string()), pa.field("label", pa.string())]
    fields += [pa.field(name, unit) for name in BOX if boxes]
    fields.append(pa.field("vector", pa.list_(pa.float32(), parts.request.dim)))
    note = {"dim": parts.request.dim, "unit_length": True, "model": parts.request.model}
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

        for part in parts.all():
            rows.append(part.rows)
            vectors.append(part.vectors)
            if sum(map(len, rows)) >= _ROW_GROUP:
                flush()
        flush()
    return [file]


def _table(records: Sequence[Record], vectors: np.ndarray, schema: pa.Schema) -> pa.Table:
    columns: dict[str, pa.Array] = {
        "path": pa.array(map(_path_of, records), pa.string()),
        "label": pa.array((record.label or None for record in records), pa.string()),
    }
    if BOX[0] in schema.names:
        boxes = [record.details.box if record.details else None for record in records]
        for at, name in enumerate(BOX):
            values = (box[at] if box else None for box in boxes)
            columns[name] = pa.array(values, schema.field(name).type)
    flat = pa.array(vectors.reshape(-1), pa.float32())
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    return pa.table(columns, schema=schema)


def _write_npy(parts: Parts, records: Sequence[Record], file: Path) -> list[Path]:
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
        for part in parts.all():
            stream.write(np.ascontiguousarray(part.vectors, "<f4").data)
            for row in part.rows.tolist():
                path_lines.write(_path_of(records[row]) + "\n")
                label_lines.write(records[row].label + "\n")
    if labelled:
        return [paths, labels, file]
    labels.unlink()
    return [paths, file]
