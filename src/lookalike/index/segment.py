"""A segment: rows that were added together. Its files never change; removed rows are marked."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lookalike.errors import RunError
from lookalike.index import manifest
from lookalike.index.block_checksums import (
    WAY_OUT,
    Mapped,
    check,
    check_file,
    sums_file,
    write_sums,
)
from lookalike.index.manifest import Entry
from lookalike.storage.claimed_sizes import npy_header, read_npy
from lookalike.storage.local_files import digest_of

BLOCK = 16384
"""Rows that are copied or coded at a time: 32 MiB of 512 numbers each."""

SCHEMA = pa.schema(
    [
        pa.field("id", pa.large_string()),
        pa.field("label", pa.string()),
        pa.field("image", pa.string()),  # JSON: where it is, if the id alone does not say it
        pa.field("version", pa.int64()),  # of the file; 0 where it is not known
    ]
)


@dataclass(frozen=True)
class Rows:
    """Vectors and what is said about them.

    Attributes:
        vectors: (n, D) float32.
        table: n rows of `SCHEMA`.
    """

    vectors: np.ndarray
    table: pa.Table


class Segment:
    """A segment that is there, mapped into memory.

    Args:
        folder: of the segment.
        entry: what the manifest says about it.

    Raises:
        FileNotFoundError: a writer has replaced it since the manifest was read.
        RunError: it is damaged.
    """

    def __init__(self, folder: Path, entry: Entry, dim: int) -> None:
        self.folder = folder
        self.entry = entry
        self.vectors = self._mapped("vectors.npy", (entry.count, dim), "<f4")
        source = pa.memory_map(str(self._own("rows.arrow")))
        self._content = source.read_buffer(source.size())  # mapped, not read
        self.dead: np.ndarray | None = None
        if entry.dead_file is not None:
            bits = self._array(entry.dead_file, (-(-entry.count // 8),), "|u1")
            self.dead = np.unpackbits(bits, count=entry.count).view(bool)
            if self.dead.sum() != entry.dead:
                raise RunError(f"{folder / entry.dead_file}: damaged; {WAY_OUT}")
        self.codes: tuple[Mapped, np.ndarray] | None = None
        if entry.search == "int8":
            scales = self._array("scales.npy", (entry.count,), "<f4")
            self.codes = self._mapped("codes.npy", (entry.count, dim), "|i1"), scales
        if entry.near_file is not None and not self._own(entry.near_file).exists():
            raise FileNotFoundError(folder / entry.near_file)

    @cached_property
    def rows(self) -> pa.Table:
        """What is known of each row, `SCHEMA`; checked when it is first read.

        Raises:
            RunError: it is damaged.
        """
        file = self.folder / "rows.arrow"
        check(file, self._content, self.entry.digests.get(file.name))
        try:
            rows = pa.ipc.open_file(self._content).read_all()
        except (pa.ArrowException, OSError) as error:
            raise RunError(f"{file}: damaged ({error}); {WAY_OUT}") from None
        if len(rows) != self.entry.count or rows.schema != SCHEMA:
            raise RunError(f"{file}: damaged: {len(rows)} rows of {self.entry.count}; {WAY_OUT}")
        return rows

    @cached_property
    def near(self) -> Any:
        """Faiss's structure."""
        from lookalike.index import approximate

        assert self.entry.near_file is not None
        file = self._own(self.entry.near_file)
        check_file(file, self.entry.digests.get(file.name))
        return approximate.read(file)

    def check(self) -> None:
        """Compare all bytes with their checksums.

        Raises:
            RunError: some are damaged.
        """
        self.vectors.check()
        if self.codes is not None:
            self.codes[0].check()
        assert self.rows is not None
        if self.entry.near_file is not None:
            file = self._own(self.entry.near_file)
            check_file(file, self.entry.digests.get(file.name))

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
        check(path, content, self.entry.digests.get(name))
        return _expected(
            read_npy(io.BytesIO(content), len(content), str(path), RunError, WAY_OUT),
            path,
            shape,
            kind,
        )

    def _mapped(self, name: str, shape: tuple[int, ...], kind: str) -> Mapped:
        """An array of a file, read and checked as it is needed."""
        path = self._own(name)
        with path.open("rb") as stream:
            npy_header(stream, path.stat().st_size, str(path), RunError, WAY_OUT)
        try:
            # Copy on write: torch wants memory that could be written.
            array = np.load(path, mmap_mode="c", allow_pickle=False)
        except ValueError as error:
            raise RunError(f"{path}: damaged ({error}); {WAY_OUT}") from None
        _expected(array, path, shape, kind)
        beside = sums_file(path)
        expected = self.entry.digests.get(beside.name)
        if expected is None:
            return Mapped(path, array, None)
        content = self._own(beside.name).read_bytes()
        check(beside, content, expected)
        return Mapped(path, array, np.frombuffer(content, "<u4"))

    def find(self, ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """The live rows that have one of `ids`, and the places of these among them."""
        places = pc.index_in(self.rows["id"], value_set=ids)
        found = places.is_valid().to_numpy()
        if self.dead is not None:
            found &= ~self.dead
        rows = np.flatnonzero(found)
        return rows, places.take(pa.array(rows)).to_numpy().astype(np.int64)

    def blocks(self) -> Iterator[Rows]:
        """The live rows, in order, a block at a time."""
        for begin in range(0, self.entry.count, BLOCK):
            end = min(begin + BLOCK, self.entry.count)
            vectors, table = self.vectors[begin:end], self.rows.slice(begin, end - begin)
            if self.dead is not None:
                kept = ~self.dead[begin:end]
                vectors, table = vectors[kept], table.filter(pa.array(kept))
            if len(table):
                yield Rows(vectors, table)


def write(folder: Path, blocks: Iterable[Rows], count: int, dim: int) -> dict[str, str]:
    """Write the files of a new segment and bring them to the disk.

    Args:
        folder: of the segment; what an unfinished attempt left there is dropped.
        blocks: the rows.
        count: how many they are together.
        dim: numbers of a vector.

    Returns:
        The checksums of the files, as `Entry.digests` has them.
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
    return _finished(folder, mapped=("vectors.npy",), others=("rows.arrow",))


def write_dead(folder: Path, name: str, dead: np.ndarray) -> dict[str, str]:
    """Write which rows, (n,) bool, are dead; returns the checksum."""
    np.save(folder / name, np.packbits(dead))
    return _finished(folder, others=(name,))


def write_codes(segment: Segment) -> tuple[float, dict[str, str]]:
    """Write the vectors as int8.

    A row's scale is its largest coordinate over 127.

    Returns:
        The largest length of what the codes leave out, and the checksums.
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
    return slack, _finished(folder, mapped=("codes.npy",), others=("scales.npy",))


def finish_near(folder: Path, name: str) -> dict[str, str]:
    """Bring faiss's file to the disk; returns its checksum."""
    return _finished(folder, others=(name,))


def _finished(
    folder: Path, *, mapped: Sequence[str] = (), others: Sequence[str] = ()
) -> dict[str, str]:
    """Write checksums of new files and bring all to the disk; the SHA-256 of what has one."""
    whole = [*others, *(write_sums(folder / name).name for name in mapped)]
    sync_all(folder, (*whole, *mapped))
    return {name: digest_of(folder / name) for name in whole}


def encode(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes (n, D) int8, scales (n,) and lengths of the rest (n,) of vectors (n, D) float32."""
    scales = np.maximum(np.abs(vectors).max(1), np.float32(1e-30)) / np.float32(127)
    codes = np.rint(vectors / scales[:, None])
    rest = vectors - codes * scales[:, None]
    return codes.astype(np.int8), scales, np.linalg.norm(rest, axis=1)


def table_of(
    ids: Sequence[str],
    labels: Sequence[str | None],
    images: Sequence[str | None],
    versions: Sequence[int],
) -> pa.Table:
    """Rows of `SCHEMA`."""
    return pa.table([ids, labels, images, versions], schema=SCHEMA)


def sync_all(folder: Path, names: Sequence[str]) -> None:
    """Bring new files and their names to the disk."""
    for name in names:
        manifest.sync(folder / name)
    manifest.sync(folder)
    manifest.sync(folder.parent)


def _expected(array: np.ndarray, path: Path, shape: tuple[int, ...], kind: str) -> np.ndarray:
    if array.shape != shape or array.dtype != np.dtype(kind):
        raise RunError(
            f"{path}: damaged: {array.dtype} of shape {array.shape}, not {shape}; {WAY_OUT}"
        )
    return array
