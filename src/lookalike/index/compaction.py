"""What keeps an index quick: few segments, each with the structure that its size deserves."""

from __future__ import annotations

import itertools
from typing import Any

from lookalike.errors import MissingExtraError
from lookalike.index import approximate, segment
from lookalike.index.manifest import Entry
from lookalike.index.segment import Segment
from lookalike.index.store import Store
from lookalike.log import logger

FANOUT = 8
"""Neighbouring segments of one size that become one: each row is copied once a size."""

_SMALLEST = 1024  # rows; what is smaller is of one size
_CODED = 4096  # rows from which int8 pays
_STRUCTURED = 20_000  # rows from which faiss pays
_APPROXIMATE = 1_000_000  # images of an index from which "auto" lets faiss guess


def settle(store: Store) -> None:
    """Rewrite what is half removed, merge what is small, add structures where they pay."""
    for some in store.segments:
        if some.entry.dead * 2 > some.entry.count:
            _merge(store, [some])
    while run := _crowd(store):
        _merge(store, run)
    _equip(store)


def merge_all(store: Store) -> None:
    """Make one segment of all."""
    some = store.segments
    if len(some) > 1 or any(one.entry.dead for one in some):
        _merge(store, list(some))
    _equip(store)


def _crowd(store: Store) -> list[Segment]:
    """Neighbours, among them FANOUT of one size and none larger; [] where there are none.

    Only neighbours are merged, so that rows stay in the order in which they were added.
    """
    some = store.segments
    sizes = [_size(one.entry.live) for one in some]
    for size in sorted(set(sizes)):
        places = enumerate(sizes)
        for small, group in itertools.groupby(places, key=lambda item: item[1] <= size):
            run = [place for place, _ in group]
            if small and sum(sizes[place] == size for place in run) >= FANOUT:
                return [some[place] for place in run]
    return []


def _merge(store: Store, run: list[Segment]) -> None:
    """One segment of the live rows of these neighbours."""
    count = sum(some.entry.live for some in run)
    merged = store.written((rows for some in run for rows in some.blocks()), count)
    names = {some.entry.name for some in run}
    entries: list[Entry] = []
    for entry in store.state.segments:
        if entry.name == run[0].entry.name:
            entries.append(merged)
        elif entry.name not in names:
            entries.append(entry)
    store.commit(entries)


def _equip(store: Store) -> None:
    for some in store.segments:
        wanted = _wanted(store, some.entry)
        if some.entry.search != wanted:
            new = _equipped(store, some, wanted)
            entries = store.state.segments
            store.commit([new if one.name == new.name else one for one in entries])


def _equipped(store: Store, some: Segment, search: str) -> Entry:
    plain: dict[str, Any] = {"near_file": None, "effort": 0, "slack": 0.0}
    if search == "int8":
        slack, digests = segment.write_codes(some)
        return some.entry.replaced(digests, **{**plain, "search": search, "slack": slack})
    if search in approximate.KINDS:
        if some.entry.count > 10 * _STRUCTURED:
            place = store.path
            logger.info("%s: building %s of %d images", place, search, some.entry.count)
        name = f"{search}-{store.state.generation + 1}.faiss"
        effort = approximate.build(search, some, some.folder / name)
        digests = segment.finish_near(some.folder, name)
        return some.entry.replaced(
            digests, **{**plain, "search": search, "near_file": name, "effort": effort}
        )
    return some.entry.replaced({}, **{**plain, "search": search})


def _wanted(store: Store, entry: Entry) -> str:
    """How a segment is to be searched."""
    kind = store.state.kind
    if kind == "auto":
        # What was built stays until half of the images are gone.
        enough = _APPROXIMATE / (2 if entry.search == "ivf" else 1)
        kind = "ivf" if store.state.live >= enough and _has_faiss() else "int8"
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
