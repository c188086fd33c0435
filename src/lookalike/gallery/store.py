"""The state of an index on disk: segments that are read, and changed by one writer at a time."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lookalike.data.record import Record
from lookalike.errors import DataError, RunError
from lookalike.gallery import manifest, segment
from lookalike.gallery.images import record_from
from lookalike.gallery.manifest import Entry, Manifest
from lookalike.gallery.segment import Rows, Segment
from lookalike.storage.locking import locked

PATIENCE = 10.0
"""Seconds to wait for another writer."""

RETRIES = 20
"""A writer replaced what the manifest named; each time there is a newer manifest."""


class Store:
    """An index without its searching.

    Args:
        path: the folder.

    Attributes:
        path: the folder.
        state: the manifest.
        segments: that it names, oldest first.

    Raises:
        RunError: there is no index, or a damaged one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = manifest.read(path)
        self.segments: tuple[Segment, ...] = ()
        self._stamp = (0, 0)
        self.refresh()

    def __len__(self) -> int:
        """How many images can be found."""
        return self.state.live

    def __contains__(self, id: str) -> bool:
        wanted = pa.array([id], pa.large_string())
        return any(len(some.find(wanted)[0]) for some in self.segments)

    def ids(self) -> list[str]:
        """The ids of all images, in the order in which they were added."""
        return [id for table in self._live("id") for id in table["id"].to_pylist()]

    def versions(self) -> dict[str, int]:
        """The version of each image, by id."""
        return {
            id: version
            for table in self._live("id", "version")
            for id, version in zip(*(column.to_pylist() for column in table.columns), strict=True)
        }

    def records(self, ids: Iterable[str]) -> dict[str, Record]:
        """Where the images with these ids are; those that are not there are left out."""
        wanted = pa.array(dict.fromkeys(ids), pa.large_string())
        found = {}
        for some in self.segments:
            rows, _ = some.find(wanted)
            for id, label, image, _ in zip(
                *(column.to_pylist() for column in some.rows.take(rows).columns), strict=True
            ):
                found[id] = record_from(id, label, image)
        return found

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """The vectors of these ids, (N, D) float32.

        Raises:
            DataError: one is not there.
        """
        found = np.full((len(ids), self.state.dim), np.nan, np.float32)
        wanted: dict[str, list[int]] = {}
        for place, id in enumerate(ids):
            wanted.setdefault(id, []).append(place)
        distinct = list(wanted)
        for some in self.segments:
            rows, places = some.find(pa.array(distinct, pa.large_string()))
            for row, place in zip(rows, places, strict=True):
                found[wanted[distinct[place]]] = some.vectors[row]
        missing = np.isnan(found[:, 0])
        if missing.any():
            raise DataError(f"{self.path}: {ids[int(missing.argmax())]} is not in the index")
        return found

    def stats(self) -> dict[str, Any]:
        """What the index holds, as plain values."""
        entries = self.state.segments
        searched: dict[str, int] = {}
        for entry in entries:
            searched[entry.search] = searched.get(entry.search, 0) + entry.live
        files = (file for file in self.path.rglob("*") if file.is_file())
        return {
            "images": len(self),
            "dimension": self.state.dim,
            "model": self.state.model,
            "kind": self.state.kind,
            "searched": searched,
            "segments": len(entries),
            "removed_rows": sum(entry.dead for entry in entries),
            "bytes": sum(file.stat().st_size for file in files),
        }

    def refresh(self) -> None:
        """See what others wrote; a search does it."""
        for _ in range(RETRIES):
            try:
                stamp = manifest.stamp(self.path)
                if stamp == self._stamp:
                    return
                state = manifest.read(self.path)
                self._open(state, stamp)
                return
            except FileNotFoundError as error:
                lost = error
        raise RunError(f"{lost.filename or lost}: is missing; build the index anew")

    def _open(self, state: Manifest, stamp: tuple[int, int]) -> None:
        """Show a state; segments that did not change are kept as they are."""
        known = {some.entry: some for some in self.segments}
        self.segments = tuple(
            known.get(entry) or Segment(self.folder / entry.name, entry, state.dim)
            for entry in state.segments
        )
        self.state, self._stamp = state, stamp

    @contextmanager
    def writing(self) -> Iterator[None]:
        """The only writer, with the newest state; files that nobody names are removed.

        Raises:
            StorageError: another process is writing, and goes on for ten seconds.
        """
        busy = f"{self.path}: another process is writing to this index; try again when it is done"
        with locked(self.path / "lock", busy, PATIENCE):
            self.refresh()
            self._sweep()
            yield
            self._sweep()

    def _sweep(self) -> None:
        """Remove the files that the manifest does not name: readers have no use for them."""
        named = {entry.name: entry.files for entry in self.state.segments}
        if not self.folder.exists():
            return
        for folder in self.folder.iterdir():
            if folder.name not in named:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            for file in folder.iterdir():
                if file.name not in named[folder.name]:
                    file.unlink(missing_ok=True)

    @property
    def folder(self) -> Path:
        """Of the segments."""
        return self.path / "segments"

    def written(self, blocks: Iterable[Rows], count: int) -> Entry:
        """A new segment of so many rows, on the disk but not yet part of the index."""
        # Never a name that was used before: a reader may still have an older manifest.
        name = f"{self.state.generation + 1:06d}"
        segment.write(self.folder / name, blocks, count, self.state.dim)
        return Entry(name, count)

    def commit(self, entries: Sequence[Entry]) -> None:
        """Make these segments the index; only inside of `writing`."""
        if tuple(entries) == self.state.segments:
            return
        manifest.write(self.path, self.state.with_segments(list(entries)))
        self.refresh()

    def append(self, rows: Rows) -> int:
        """One change: new rows, each of another id, in; older ones of the same ids out."""
        if not len(rows.table):
            return 0
        with self.writing():
            wanted = rows.table["id"].combine_chunks()
            entries = [self.bury(some, wanted) for some in self.segments]
            self.commit([*entries, self.written([rows], len(rows.table))])
        return len(rows.table)

    def bury(self, some: Segment, ids: pa.Array) -> Entry:
        """A segment's entry with the rows of `ids` dead; only inside of `writing`."""
        rows, _ = some.find(ids)
        if not len(rows):
            return some.entry
        dead = np.zeros(some.entry.count, bool) if some.dead is None else some.dead.copy()
        dead[rows] = True
        name = f"dead-{self.state.generation + 1}.npy"
        segment.write_dead(some.folder, name, dead)
        return replace(some.entry, dead=int(dead.sum()), dead_file=name)

    def _live(self, *columns: str) -> Iterator[pa.Table]:
        for some in self.segments:
            table = some.rows.select(columns)
            yield table if some.dead is None else table.filter(pa.array(~some.dead))
