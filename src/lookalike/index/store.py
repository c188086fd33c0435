"""The files of an index: segments for any number of readers and one writer at a time."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from lookalike.data.record import Record
from lookalike.errors import DataError, RunError
from lookalike.index import manifest, segment
from lookalike.index.block_checksums import FIX
from lookalike.index.manifest import Manifest, SegmentEntry
from lookalike.index.new_images import checked_id, record_from
from lookalike.index.segment import Segment, SegmentRows
from lookalike.storage import local_files
from lookalike.storage.file_lock import locked

RETRIES = 20
"""Tries to open files that a writer has just replaced; each time there is a newer manifest."""

Texts = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
"""One id, or several."""


class View(NamedTuple):
    """A consistent snapshot: a manifest, its segments (oldest first) and the stamp of its file."""

    state: Manifest
    segments: tuple[Segment, ...]
    stamp: tuple[int, int]


class Store:
    """An index without its search.

    Threads may share an object. They read from one `View`, which is replaced as a whole, and only
    by a newer one; writers wait for each other.

    Raises:
        RunError: there is no index, or a damaged one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer = threading.RLock()
        self._install = threading.Lock()
        self._view = View(manifest.read(path), (), (0, 0))
        self.refresh()

    @property
    def state(self) -> Manifest:
        """The manifest."""
        return self._view.state

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments that the manifest names, oldest first."""
        return self._view.segments

    def __len__(self) -> int:
        return self.state.live

    def __contains__(self, id: object) -> bool:
        try:
            wanted = ids_of(id)  # type: ignore[arg-type]
        except DataError:
            return False
        return len(wanted) == 1 and any(len(one.find(wanted)[0]) for one in self.segments)

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

    def records(self, ids: Texts) -> dict[str, Record]:
        """The records of the images with these ids, as far as they are in the index."""
        wanted = ids_of(ids)
        found = {}
        for one in self.segments:
            rows, _ = one.find(wanted)
            for id, label, image, _ in zip(
                *(column.to_pylist() for column in one.rows.take(rows).columns), strict=True
            ):
                found[id] = record_from(id, label, image)
        return found

    def vectors(self, ids: Texts) -> np.ndarray:
        """The vectors of these ids, (N, D) float32; of one id, (D,).

        Raises:
            DataError: one is not there.
        """
        if isinstance(ids, (str, os.PathLike)):
            return self.vectors([ids])[0]
        view, given = self._view, texts_of(ids)
        found = np.full((len(given), view.state.dim), np.nan, np.float32)
        wanted: dict[str, list[int]] = {}
        for place, id in enumerate(given):
            wanted.setdefault(id, []).append(place)
        distinct = list(wanted)
        for one in view.segments:
            rows, places = one.find(ids_of(distinct))
            for row, place in zip(rows, places, strict=True):
                found[wanted[distinct[place]]] = one.vectors[int(row)]
        missing = np.isnan(found[:, 0])
        if missing.any():
            raise DataError(f"{self.path}: {given[int(missing.argmax())]} is not in the index")
        return found

    def stats(self) -> dict[str, Any]:
        """Counts and sizes, as plain values."""
        state = self.state
        searched: dict[str, int] = {}
        for entry in state.segments:
            searched[entry.search] = searched.get(entry.search, 0) + entry.live
        return {
            "images": state.live,
            "dimension": state.dim,
            "model": state.model,
            "kind": state.kind,
            "searched": searched,
            "segments": len(state.segments),
            "removed_rows": sum(entry.deleted for entry in state.segments),
            "bytes": sum(map(_size_of, self.path.rglob("*"))),
        }

    def check(self) -> None:
        """Compare all files with their checksums; a search checks only what it reads.

        Raises:
            RunError: one is damaged.
        """
        for one in self.refresh().segments:
            one.check()

    def refresh(self) -> View:
        """Read the newest state, as each search does.

        Returns:
            A view at least as new as the index was when this was called.

        Raises:
            RunError: the index is gone, or damaged.
        """
        lost: OSError | None = None
        for _ in range(RETRIES):
            try:
                stamp = self._stamp()
                view = self._view
                if stamp == view.stamp:
                    return view
                state = manifest.read(self.path)
                found = View(state, self._opened(state, view), stamp)
            except FileNotFoundError as error:
                lost = error  # replaced meanwhile: there is a newer manifest
                continue
            with self._install:
                if self._is_newer(found):
                    self._view = found
                    return found
        if lost is None:  # other threads installed newer views each time
            return self._view
        raise RunError(f"{lost.filename or lost}: is missing; {FIX}")

    def _stamp(self) -> tuple[int, int]:
        try:
            return manifest.stamp(self.path)
        except OSError:
            manifest.read(self.path)  # raises with the reason
            raise

    def _is_newer(self, found: View) -> bool:
        """True if a view, read a moment ago, may replace the present one."""
        now = self._view.state
        if self._view.stamp == (0, 0):  # the first one
            return True
        if now.id == found.state.id:
            return found.state.generation >= now.generation
        return manifest.stamp(self.path) == found.stamp  # another index in its place

    def _opened(self, state: Manifest, view: View) -> tuple[Segment, ...]:
        """The segments of a state; unchanged ones are those of `view`."""
        same = view.state.id == state.id
        known = {one.entry: one for one in view.segments} if same else {}
        return tuple(
            known.get(entry) or Segment(self.folder / entry.name, entry, state.dim)
            for entry in state.segments
        )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the index as its only writer, with the newest state.

        Raises:
            StorageError: another process is writing for more than ten seconds, or the disk is full.
        """
        busy = f"{self.path}: another process is writing to this index; try again when it is done"
        lock = self.path / "lock"
        if lock.is_symlink():
            raise RunError(f"{lock}: is a link; an index holds its files itself: remove it")
        with self._writer, locked(lock, busy), local_files.writing(self.path):
            self.refresh()
            self._sweep()
            try:
                yield
            finally:
                self._sweep()

    def _sweep(self) -> None:
        """Remove the files that the manifest does not name."""
        named = {entry.name: entry.files for entry in self.state.segments}
        manifest.check_links(self.path, list(named))
        if not self.folder.exists():
            return
        for folder in self.folder.iterdir():
            if folder.is_symlink() or not folder.is_dir():
                folder.unlink(missing_ok=True)
                continue
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

    def write_segment(self, blocks: Iterable[SegmentRows], count: int) -> SegmentEntry:
        """Write a new segment of `count` rows, which is not yet part of the index."""
        # Never a name that was used before: a reader may still have an older manifest.
        name = f"{self.state.generation + 1:06d}"
        digests = segment.write(self.folder / name, blocks, count, self.state.dim)
        return SegmentEntry(name, count, digests=digests)

    def commit(self, entries: Sequence[SegmentEntry]) -> None:
        """Make these segments the index; only inside of `writing`."""
        if tuple(entries) == self.state.segments:
            return
        manifest.write(self.path, self.state.with_segments(list(entries)))
        self.refresh()

    def append(self, rows: SegmentRows) -> int:
        """Add rows with distinct ids and delete older rows with these ids, in one change."""
        if not len(rows.table):
            return 0
        with self.writing():
            ids = rows.table["id"].combine_chunks()
            entries = [self.delete_rows(one, ids) for one in self.segments]
            self.commit([*entries, self.write_segment([rows], len(rows.table))])
        return len(rows.table)

    def delete_rows(self, one: Segment, ids: pa.Array) -> SegmentEntry:
        """The entry of a segment with new tombstones for `ids`; only inside of `writing`."""
        rows, _ = one.find(ids)
        if not len(rows):
            return one.entry
        before = one.deleted
        deleted = np.zeros(one.entry.count, bool) if before is None else before.copy()
        deleted[rows] = True
        name = f"dead-{self.state.generation + 1}.npy"
        digests = segment.write_tombstones(one.folder, name, deleted)
        return one.entry.replaced(digests, deleted=int(deleted.sum()), tombstones=name)

    def _live(self, *columns: str) -> Iterator[pa.Table]:
        for one in self.segments:
            table = one.rows.select(columns)
            yield table if one.deleted is None else table.filter(pa.array(~one.deleted))


def _size_of(path: Path) -> int:
    """Bytes of a file; 0 of a folder, and of a file that a writer has removed meanwhile."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def ids_of(ids: Texts) -> pa.Array:
    """One id or several as Arrow's texts, each once.

    Raises:
        DataError: one is no text, empty, or cannot be written as UTF-8.
    """
    return pa.array(dict.fromkeys(texts_of(ids)), pa.large_string())


def texts_of(ids: Texts | None) -> list[str]:
    """One id or several as texts.

    Raises:
        DataError: one is no text, empty, or cannot be written as UTF-8.
    """
    given = [ids] if isinstance(ids, (str, os.PathLike)) else ids
    if isinstance(given, (bytes, bytearray)) or not isinstance(given, Iterable):
        raise DataError(f"ids must be a string or several, not {type(given).__name__}")
    return list(map(checked_id, given))
