"""A segment: rows that were added together. Its files never change; rows only die."""

from __future__ import annotations

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
from lookalike.gallery import manifest
from lookalike.gallery.manifest import Entry

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
        self.vectors = _mapped(folder / "vectors.npy", (entry.count, dim), "<f4")
        source = pa.memory_map(str(folder / "rows.arrow"))
        try:
            self.rows = pa.ipc.open_file(source).read_all()
        except pa.ArrowInvalid as error:
            raise RunError(f"{folder / 'rows.arrow'}: damaged ({error})") from None
        if len(self.rows) != entry.count:
            raise RunError(f"{folder}: damaged: {len(self.rows)} rows of {entry.count}")
        self.dead: np.ndarray | None = None
        if entry.dead_file is not None:
            bits = np.load(folder / entry.dead_file, allow_pickle=False)
            self.dead = np.unpackbits(bits, count=entry.count).view(bool)
        self.codes: tuple[np.ndarray, np.ndarray] | None = None
        if entry.search == "int8":
            codes = _mapped(folder / "codes.npy", (entry.count, dim), "|i1")
            self.codes = codes, _mapped(folder / "scales.npy", (entry.count,), "<f4")
        if entry.near_file is not None and not (folder / entry.near_file).exists():
            raise FileNotFoundError(folder / entry.near_file)

    @cached_property
    def near(self) -> Any:
        """Faiss's structure."""
        from lookalike.gallery import approximate

        assert self.entry.near_file is not None
        return approximate.read(self.folder / self.entry.near_file)

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


def write(folder: Path, blocks: Iterable[Rows], count: int, dim: int) -> None:
    """Write the files of a new segment and bring them to the disk.

    Args:
        folder: of the segment; what an unfinished attempt left there is dropped.
        blocks: the rows.
        count: how many they are together.
        dim: numbers of a vector.
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
    sync_all(folder, ("vectors.npy", "rows.arrow"))


def write_dead(folder: Path, name: str, dead: np.ndarray) -> None:
    """Write which rows, (n,) bool, are dead."""
    np.save(folder / name, np.packbits(dead))
    sync_all(folder, (name,))


def write_codes(segment: Segment) -> float:
    """Write the vectors as int8; returns the largest length of what the codes leave out.

    A row's scale is its largest coordinate over 127.
    """
    folder, (count, dim) = segment.folder, segment.vectors.shape
    scales = np.empty(count, np.float32)
    slack = 0.0
    with (folder / "codes.npy").open("wb") as stream:
        header = {"descr": "|i1", "fortran_order": False, "shape": (count, dim)}
        np.lib.format.write_array_header_1_0(stream, header)
        for begin in range(0, count, BLOCK):
            codes, scale, left = encode(segment.vectors[begin : begin + BLOCK])
            stream.write(codes.data)
            scales[begin : begin + BLOCK] = scale
            slack = max(slack, float(left.max()))
    np.save(folder / "scales.npy", scales)
    sync_all(folder, ("codes.npy", "scales.npy"))
    return slack


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


def _mapped(path: Path, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """An array of a file, read as it is needed."""
    try:
        # Copy on write: torch wants memory that could be written.
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except ValueError as error:
        raise RunError(f"{path}: damaged ({error})") from None
    if array.shape != shape or array.dtype != np.dtype(kind):
        raise RunError(f"{path}: damaged: {array.dtype} of shape {array.shape}, not {shape}")
    return array
