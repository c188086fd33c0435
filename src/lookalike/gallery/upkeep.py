"""What keeps an index quick: few segments, each with the structure that its size deserves."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lookalike.errors import MissingExtraError
from lookalike.gallery import approximate, segment
from lookalike.gallery.manifest import Entry, Manifest
from lookalike.gallery.segment import Rows, Segment
from lookalike.log import logger

FANOUT = 8
"""Neighbouring segments of one size that become one: each row is copied once a size."""

_SMALLEST = 1024  # rows; what is smaller is of one size
_CODED = 4096  # rows from which int8 pays
_STRUCTURED = 20_000  # rows from which faiss pays
_APPROXIMATE = 1_000_000  # images of an index from which "auto" lets faiss guess


class Upkeep:
    """The work of the one who writes.

    Args:
        path: the index.
        state: its manifest as it is now.
        segments: its segments as they are now.
        commit: makes a list of entries the state.
    """

    def __init__(
        self,
        path: Path,
        state: Callable[[], Manifest],
        segments: Callable[[], tuple[Segment, ...]],
        commit: Callable[[Sequence[Entry]], None],
    ) -> None:
        self._folder = path / "segments"
        self._state = state
        self._segments = segments
        self._commit = commit

    def written(self, blocks: Iterator[Rows], count: int) -> Entry:
        """A new segment, on the disk but not yet part of the index."""
        # Never a name that was used before: a reader may still have an older manifest.
        name = f"{self._state().generation + 1:06d}"
        segment.write(self._folder / name, blocks, count, self._state().dim)
        return Entry(name, count)

    def settle(self) -> None:
        """Rewrite what is half dead, merge what is small, add structures where they pay."""
        for some in self._segments():
            if some.entry.dead * 2 > some.entry.count:
                self._merge([some])
        while run := self._crowd():
            self._merge(run)
        self._equip()

    def merge_all(self) -> None:
        """Make one segment of all."""
        some = self._segments()
        if len(some) > 1 or any(one.entry.dead for one in some):
            self._merge(list(some))
        self._equip()

    def sweep(self) -> None:
        """Remove the files that the manifest does not name: readers have no use for them."""
        named = {entry.name: entry.files for entry in self._state().segments}
        if not self._folder.exists():
            return
        for folder in self._folder.iterdir():
            if folder.name not in named:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            for file in folder.iterdir():
                if file.name not in named[folder.name]:
                    file.unlink(missing_ok=True)

    def _crowd(self) -> list[Segment]:
        """Neighbours, among them FANOUT of one size and none larger; [] where there are none.

        Only neighbours are merged, so that rows stay in the order in which they were added.
        """
        some = self._segments()
        sizes = [_size(one.entry.live) for one in some]
        for size in sorted(set(sizes)):
            places = enumerate(sizes)
            for small, group in itertools.groupby(places, key=lambda item: item[1] <= size):
                run = [place for place, _ in group]
                if small and sum(sizes[place] == size for place in run) >= FANOUT:
                    return [some[place] for place in run]
        return []

    def _merge(self, run: list[Segment]) -> None:
        """One segment of the live rows of these neighbours."""
        count = sum(some.entry.live for some in run)
        merged = self.written((rows for some in run for rows in some.blocks()), count)
        names = {some.entry.name for some in run}
        entries: list[Entry] = []
        for entry in self._state().segments:
            if entry.name == run[0].entry.name:
                entries.append(merged)
            elif entry.name not in names:
                entries.append(entry)
        self._commit(entries)

    def _equip(self) -> None:
        for some in self._segments():
            wanted = self._wanted(some.entry)
            if some.entry.search != wanted:
                new = self._equipped(some, wanted)
                entries = self._state().segments
                self._commit([new if one.name == new.name else one for one in entries])

    def _equipped(self, some: Segment, search: str) -> Entry:
        entry = replace(some.entry, search=search, near_file=None, effort=0, slack=0.0)
        if search == "int8":
            return replace(entry, slack=segment.write_codes(some))
        if search in approximate.KINDS:
            if some.entry.count > 10 * _STRUCTURED:
                place = self._folder.parent
                logger.info("%s: building %s of %d images", place, search, entry.count)
            name = f"{search}-{self._state().generation + 1}.faiss"
            effort = approximate.build(search, some, some.folder / name)
            segment.sync_all(some.folder, (name,))
            return replace(entry, near_file=name, effort=effort)
        return entry

    def _wanted(self, entry: Entry) -> str:
        """How a segment is to be searched."""
        kind = self._state().kind
        if kind == "auto":
            # What was built stays until half of the images are gone.
            enough = _APPROXIMATE / (2 if entry.search == "ivf" else 1)
            kind = "ivf" if self._state().live >= enough and _has_faiss() else "int8"
        if kind in approximate.KINDS and entry.count < _STRUCTURED:
            kind = "int8"
        if kind == "exact" or (kind == "int8" and entry.count < _CODED):
            return "float32"
        return kind


def _size(live: int) -> int:
    """0 up to `_SMALLEST` rows, 1 up to FANOUT times as many, and so on."""
    size = 0
    while live > _SMALLEST * FANOUT**size:
        size += 1
    return size


def _has_faiss() -> bool:
    try:
        approximate.faiss()
    except MissingExtraError:
        logger.info(
            "searching all images exactly; above a million, pip install 'lookalike[search]' makes "
            "it quicker"
        )
        return False
    return True
