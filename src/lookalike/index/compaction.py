"""Compaction of an index: few segments, large ones with int8 codes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lookalike.index import segment
from lookalike.index.manifest import SegmentEntry
from lookalike.index.segment import Segment

if TYPE_CHECKING:
    from lookalike.index.folder_store import FolderStore

FANOUT = 8
"""Neighbouring segments of one level that are merged: each row is copied once for each level."""

LEVEL_0_ROWS = 1024
"""Rows of a segment up to which its level is 0."""

INT8_ROWS = 4096
"""Rows from which int8 codes are worth building."""


def compact_where_due(store: FolderStore) -> None:
    """Rewrite segments that are mostly deleted, merge small ones, write missing codes."""
    for one in store.segments:
        if one.entry.deleted * 2 > one.entry.count:
            _merge(store, [one])
    while run := _mergeable(store):
        _merge(store, run)
    _write_codes(store)


def merge_all(store: FolderStore) -> None:
    """Make one segment of all."""
    if len(store.segments) > 1 or any(one.entry.deleted for one in store.segments):
        _merge(store, store.segments)
    _write_codes(store)


def _mergeable(store: FolderStore) -> list[Segment]:
    """Neighbours, among them FANOUT of one level and none above it; [] where there are none.

    Only neighbours are merged, so that rows stay in the order in which they were added.
    """
    levels = [_level(one.entry.live) for one in store.segments]
    for level in sorted(set(levels)):
        for low, group in itertools.groupby(enumerate(levels), key=lambda item: item[1] <= level):
            run = [place for place, _ in group]
            if low and sum(levels[place] == level for place in run) >= FANOUT:
                return [store.segments[place] for place in run]
    return []


def _level(live: int) -> int:
    """0 up to `LEVEL_0_ROWS` rows, 1 up to FANOUT times as many, and so on."""
    level = 0
    while live > LEVEL_0_ROWS * FANOUT**level:
        level += 1
    return level


def _merge(store: FolderStore, run: Sequence[Segment]) -> None:
    """Replace neighbouring segments by one of their live rows."""
    count = sum(one.entry.live for one in run)
    merged = store.write_segment((rows for one in run for rows in one.blocks()), count)
    names = {one.entry.name for one in run}
    entries: list[SegmentEntry] = []
    for entry in store.state.segments:
        if entry.name == run[0].entry.name:
            entries.append(merged)
        elif entry.name not in names:
            entries.append(entry)
    store.commit(entries)


def _write_codes(store: FolderStore) -> None:
    if store.state.kind == "exact":
        return
    for one in store.segments:
        if one.entry.search == "float32" and one.entry.count >= INT8_ROWS:
            slack, digests = segment.write_codes(one)
            new = one.entry.replaced(digests, search="int8", slack=slack)
            entries = store.state.segments
            store.commit([new if entry.name == new.name else entry for entry in entries])
