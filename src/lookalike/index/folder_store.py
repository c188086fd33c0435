"""An index in a folder: segments for any number of readers and one writer at a time."""

from __future__ import annotations

import shutil
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from lookalike.errors import RunError
from lookalike.index import compaction, manifest, segment, segment_search
from lookalike.index.manifest import FIX, Manifest, SegmentEntry
from lookalike.index.segment import Segment
from lookalike.index.store import ModelCheck, SearchHits, Store, StoredRows
from lookalike.storage import local_files
from lookalike.storage.atomic import partial_path
from lookalike.storage.file_lock import locked

RETRIES = 20
"""Tries to open files that a writer has just replaced; each time there is a newer manifest."""


class View(NamedTuple):
    """A consistent snapshot: a manifest, its segments (oldest first) and the stamp of its file."""

    state: Manifest
    segments: tuple[Segment, ...]
    stamp: tuple[int, int]


class FolderStore(Store):
    """A folder of this machine.

    Threads may share an object. They read from one `View`, which is replaced as a whole, and only
    by a newer one; writers wait for each other. Rows stay in the order in which they were added.

    Raises:
        RunError: there is no index, or a damaged one.
    """

    KINDS = ("auto", "exact", "int8")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.address, self.place = str(path.absolute()), str(path)
        self._writer = threading.RLock()
        self._install = threading.Lock()
        state = manifest.read(path)
        self._view = View(state, (), (0, 0))
        self._model_check = ModelCheck(self.place, state.model, state.dim)
        self.refresh()

    @classmethod
    def create(cls, path: Path, *, model: str, dim: int, kind: str) -> FolderStore:
        """A new folder without rows.

        Raises:
            RunError: there is an index or something else.
        """
        _refuse_used(path)
        local_files.make_folder(path)
        with locked(path / "lock", f"{path}: another process is writing here; try again"):
            _refuse_used(path)  # another process may have made one meanwhile
            manifest.write(path, Manifest.new(model, dim, kind))
        return cls(path)

    @property
    def dim(self) -> int:  # type: ignore[override]
        return self.state.dim

    @property
    def model(self) -> str:  # type: ignore[override]
        return self.state.model

    @property
    def kind(self) -> str:  # type: ignore[override]
        return self.state.kind

    @property
    def state(self) -> Manifest:
        """The manifest."""
        return self._view.state

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments that the manifest names, oldest first."""
        return self._view.segments

    def count(self) -> int:
        return self.state.live

    def upsert(self, rows: StoredRows) -> int:
        """As a new segment, in one change; rows with these ids in older ones are deleted."""
        if not len(rows.table):
            return 0
        with self.writing():
            ids = rows.table["id"].combine_chunks()
            entries = [self.delete_rows(one, ids) for one in self.segments]
            self.commit([*entries, self.write_segment([rows], len(rows.table))])
        return len(rows.table)

    def delete(self, ids: Sequence[str]) -> int:
        wanted = pa.array(ids, pa.large_string())
        with self.writing():
            entries = [self.delete_rows(one, wanted) for one in self.segments]
            before = self.state.live
            self.commit(entries)
            return before - self.state.live

    def search(
        self, queries: np.ndarray, k: int, *, exact: bool, among: Sequence[str] | None
    ) -> SearchHits:
        """Always exact; of equal cosines, the row added first comes first."""
        return segment_search.search(self.refresh().segments, queries, k, among)

    def read(
        self, ids: Sequence[str] | None = None, *, vectors: bool = False
    ) -> Iterator[StoredRows]:
        wanted = None if ids is None else pa.array(ids, pa.large_string())
        for one in self.segments:
            if wanted is not None:
                rows, _ = one.find(wanted)
                found = one.vectors[rows] if vectors else np.empty((len(rows), 0), np.float32)
                yield StoredRows(found, one.rows.take(rows))
            elif vectors:
                yield from one.blocks()
            else:
                table = one.rows
                if one.deleted is not None:
                    table = table.filter(pa.array(~one.deleted))
                yield StoredRows(np.empty((len(table), 0), np.float32), table)

    def optimize(self, *, fully: bool = False) -> None:
        """Merge many small segments and drop many deleted rows; or make one segment of all."""
        with self.writing():
            (compaction.merge_all if fully else compaction.compact_where_due)(self)

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
            RunError: the index is gone, damaged, or replaced by one of another model.
        """
        lost: OSError | None = None
        for _ in range(RETRIES):
            try:
                stamp = self._stamp()
                view = self._view
                if stamp == view.stamp:
                    return view
                state = manifest.read(self.path)
                self._model_check.check(state.model, state.dim)
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

    def write_segment(self, blocks: Iterable[StoredRows], count: int) -> SegmentEntry:
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


def _size_of(path: Path) -> int:
    """Bytes of a file; 0 of a folder, and of a file that a writer has removed meanwhile."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _refuse_used(folder: Path) -> None:
    """Raise a RunError if a folder is a file, an index, or has other things in it."""
    if not folder.is_dir():
        if folder.exists():
            raise RunError(f"{folder}: is a file; choose another place")
        return
    if (folder / manifest.FILE).exists():
        raise RunError(
            f"{folder}: holds an index already; choose another place, or add to the index"
        )
    # Of another process that makes one, or was killed while it did.
    begun = {"lock", partial_path(folder / manifest.FILE).name}
    if any(file.name not in begun for file in folder.iterdir()):
        raise RunError(f"{folder}: is not empty; choose another place, or add to the index")
