"""Immutable segments of an index: vectors and facts of images, with tombstones of deleted rows."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lookalike.errors import RunError
from lookalike.index.manifest import FIX, SegmentEntry
from lookalike.index.store import SCHEMA, StoredRows
from lookalike.storage.atomic import sync
from lookalike.storage.claimed_sizes import npy_header, read_npy
from lookalike.storage.local_files import digest_of

BLOCK = 16384
"""Rows that are copied or coded at a time: 32 MiB of 512 numbers each."""


class Segment:
    """A segment of an index, mapped into memory.

    Attributes:
        deleted: (n,) bool; None where no row is deleted.

    Raises:
        FileNotFoundError: a writer has replaced it since the manifest was read.
        RunError: it is damaged.
    """

    def __init__(self, folder: Path, entry: SegmentEntry, dim: int) -> None:
        self.folder = folder
        self.entry = entry
        self.vectors = self._mapped("vectors.npy", (entry.count, dim), "<f4")
        source = pa.memory_map(str(self._own("rows.arrow")))
        self._content = source.read_buffer(source.size())  # mapped, not read
        self.deleted: np.ndarray | None = None
        if entry.tombstones is not None:
            bits = self._array(entry.tombstones, (-(-entry.count // 8),), "|u1")
            self.deleted = np.unpackbits(bits, count=entry.count).view(bool)
            if self.deleted.sum() != entry.deleted:
                raise RunError(f"{folder / entry.tombstones}: damaged; {FIX}")
        self.codes: tuple[np.ndarray, np.ndarray] | None = None
        if entry.search == "int8":
            scales = self._array("scales.npy", (entry.count,), "<f4")
            self.codes = self._mapped("codes.npy", (entry.count, dim), "|i1"), scales

    @cached_property
    def rows(self) -> pa.Table:
        """The table of `SCHEMA`, checked when it is first read.

        Raises:
            RunError: it is damaged.
        """
        file = self.folder / "rows.arrow"
        self._compare(file.name, hashlib.sha256(self._content).hexdigest())
        try:
            rows = pa.ipc.open_file(self._content).read_all()
        except (pa.ArrowException, OSError) as error:
            raise RunError(f"{file}: damaged ({error}); {FIX}") from None
        if len(rows) != self.entry.count or rows.schema != SCHEMA:
            raise RunError(f"{file}: damaged: {len(rows)} rows of {self.entry.count}; {FIX}")
        return rows

    def check(self) -> None:
        """Compare all files with their checksums.

        Raises:
            RunError: one is damaged.
        """
        for name in self.entry.files:
            self._compare(name, digest_of(self._own(name)))

    def _compare(self, name: str, digest: str) -> None:
        if digest != self.entry.digests.get(name):
            file = self.folder / name
            raise RunError(f"{file}: damaged: its content is not what was written; {FIX}")

    def _own(self, name: str) -> Path:
        """The path of a file, which is no link."""
        path = self.folder / name
        if path.is_symlink():
            raise RunError(
                f"{path}: is a link; an index holds its files itself: copy it into its folder"
            )
        return path

    def _array(self, name: str, shape: tuple[int, ...], kind: str) -> np.ndarray:
        """The array of a small file, checked."""
        path = self._own(name)
        content = path.read_bytes()
        self._compare(name, hashlib.sha256(content).hexdigest())
        return _expected(
            read_npy(io.BytesIO(content), len(content), str(path), RunError, FIX),
            path,
            shape,
            kind,
        )

    def _mapped(self, name: str, shape: tuple[int, ...], kind: str) -> np.ndarray:
        """The array of a large file, read as it is used."""
        path = self._own(name)
        with path.open("rb") as stream:
            npy_header(stream, path.stat().st_size, str(path), RunError, FIX)
        try:
            # Copy on write: torch takes writable memory only.
            array = np.load(path, mmap_mode="c", allow_pickle=False)
        except ValueError as error:
            raise RunError(f"{path}: damaged ({error}); {FIX}") from None
        return _expected(array, path, shape, kind)

    def find(self, ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """The live rows with one of `ids`, and for each the position of its id in `ids`."""
        places = pc.index_in(self.rows["id"], value_set=ids)
        found = places.is_valid().to_numpy()
        if self.deleted is not None:
            found &= ~self.deleted
        rows = np.flatnonzero(found)
        return rows, places.take(pa.array(rows)).to_numpy().astype(np.int64)

    def labelled(self, labels: Sequence[str]) -> np.ndarray:
        """The live rows with one of `labels`, ascending."""
        wanted = pa.array(labels, self.rows.schema.field("label").type)
        found = pc.is_in(self.rows["label"], value_set=wanted).to_numpy()
        return np.flatnonzero(found if self.deleted is None else found & ~self.deleted)

    def blocks(self) -> Iterator[StoredRows]:
        """The live rows, in order, a block at a time."""
        for begin in range(0, self.entry.count, BLOCK):
            end = min(begin + BLOCK, self.entry.count)
            vectors, table = self.vectors[begin:end], self.rows.slice(begin, end - begin)
            if self.deleted is not None:
                kept = ~self.deleted[begin:end]
                vectors, table = vectors[kept], table.filter(pa.array(kept))
            if len(table):
                yield StoredRows(vectors, table)


def write(folder: Path, blocks: Iterable[StoredRows], count: int, dim: int) -> dict[str, str]:
    """Write the files of a new segment of `count` rows and bring them to the disk.

    What an unfinished attempt left in the folder is dropped.

    Returns:
        The checksums of the files, as in `SegmentEntry.digests`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    written = 0
    with (
        (folder / "vectors.npy").open("wb") as stream,
        pa.OSFile(str(folder / "rows.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, SCHEMA) as rows,
    ):
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, dim)}
        np.lib.format.write_array_header_1_0(stream, header)
        for block in blocks:
            stream.write(np.ascontiguousarray(block.vectors, "<f4").data)
            rows.write_table(block.table)
            written += len(block.table)
    assert written == count
    return _finished(folder, "vectors.npy", "rows.arrow")


def write_tombstones(folder: Path, name: str, deleted: np.ndarray) -> dict[str, str]:
    """Write the deleted rows, (n,) bool; returns the checksum."""
    np.save(folder / name, np.packbits(deleted))
    return _finished(folder, name)


def write_codes(segment: Segment) -> tuple[float, dict[str, str]]:
    """Write the vectors as int8, each row scaled by its largest coordinate over 127.

    Returns:
        The largest length of the rest that the codes leave out, and the checksums.
    """
    folder, (count, dim) = segment.folder, segment.vectors.shape
    scales: list[np.ndarray] = [np.zeros(0, np.float32)]
    slack = 0.0
    with (folder / "codes.npy").open("wb") as stream:
        header = {"descr": "|i1", "fortran_order": False, "shape": (count, dim)}
        np.lib.format.write_array_header_1_0(stream, header)
        for begin in range(0, count, BLOCK):
            codes, scale, left = encode(segment.vectors[begin : begin + BLOCK])
            stream.write(codes.data)
            scales.append(scale)
            slack = max(slack, float(left.max()))
    np.save(folder / "scales.npy", np.concatenate(scales))
    return slack, _finished(folder, "codes.npy", "scales.npy")


def _finished(folder: Path, *names: str) -> dict[str, str]:
    """Bring new files to the disk; returns their SHA-256."""
    for path in (*(folder / name for name in names), folder, folder.parent):
        sync(path)
    return {name: digest_of(folder / name) for name in names}


def encode(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes (n, D) int8, scales (n,) and lengths of the rest (n,) of vectors (n, D) float32."""
    scales = np.maximum(np.abs(vectors).max(1), np.float32(1e-30)) / np.float32(127)
    codes = np.rint(vectors / scales[:, None])
    rest = vectors - codes * scales[:, None]
    return codes.astype(np.int8), scales, np.linalg.norm(rest, axis=1)


def _expected(array: np.ndarray, path: Path, shape: tuple[int, ...], kind: str) -> np.ndarray:
    if array.shape != shape or array.dtype != np.dtype(kind):
        raise RunError(f"{path}: damaged: {array.dtype} of shape {array.shape}, not {shape}; {FIX}")
    return array
