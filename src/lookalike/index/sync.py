"""Synchronization of an index with named places: new images added, missing ones removed."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from lookalike import storage
from lookalike.data.inputs import KnownLists, no_lists, read_places
from lookalike.data.loading.image_source import Source
from lookalike.data.readers.annotation import BY_CONTENT, JOINER, ListLayout
from lookalike.data.record import Record
from lookalike.data.record_table import RecordTable
from lookalike.errors import ConfigError, DataError, RunError
from lookalike.index.index import Index
from lookalike.index.new_images import id_of
from lookalike.log import counted, logger
from lookalike.vectors import vector_files

_BLOCK = 16_384  # images whose vectors are in memory at once


@dataclass(frozen=True)
class GalleryList:
    """Images for an index.

    Attributes:
        tables: files of their vectors, with the fingerprints of the model; None for `.npy`.
        records: the others.
    """

    tables: dict[str, list[str] | None]
    records: RecordTable

    @classmethod
    def of(
        cls,
        places: Sequence[str],
        known: KnownLists = no_lists,
        layout: ListLayout = BY_CONTENT,
        joiner: str = JOINER,
    ) -> GalleryList:
        """Images at places; also files of vectors: `.npy`, or Parquet that `embed` wrote.

        `known`, `layout` and `joiner` are those of `read_places`.

        Raises:
            LookalikeError: a place cannot be read.
        """
        models = {
            p: None if vector_files.is_array(p) else vector_files.models_of(p) for p in places
        }
        tables = {p: of for p, of in models.items() if of is not None or vector_files.is_array(p)}
        others = [place for place in places if place not in tables]
        return cls(tables, records_at(others, known, layout, joiner) if others else RecordTable())


def synchronize(
    index: Index, gallery: GalleryList, *, remove_missing: bool, source: Source
) -> dict[str, Record]:
    """Add new and changed images to the index; of an image with another label, only that changes.

    An image that several places name has its vector and its label from the first of them, of files
    of vectors before others; its label from the first that has one. Different ones are warned of.

    Args:
        index: changed.
        gallery: the images.
        remove_missing: remove images that are not in this list, and labels that it does not give;
            otherwise these stay.

    Returns:
        The images by id, with the secrets of their addresses, which the index does not keep.
    """
    for table, models in gallery.tables.items():
        _check_models(table, models, index)
    known, labels = index.versions(), index.labels()
    clashes = _LabelClashes()
    listed = _by_id(gallery.records, known, clashes)
    seen: dict[str, str] = {}  # the labels of images whose vectors are in files
    added = relabelled = 0
    with index.loading():
        for table in gallery.tables:
            version = image_version(storage.absolute(table))
            for records, vectors in _images_of_table(index, table, listed, seen, clashes):
                new = [
                    row
                    for row, (id, record) in enumerate(records.items())
                    if known.get(id) != version or _relabels(record, labels[id], remove_missing)
                ]
                if new:
                    some = list(records.values())
                    added += index.add(
                        [some[row] for row in new],
                        vectors=vectors[new],
                        versions=[version] * len(new),
                    )
        versions = {
            id: image_version(record.uri) for id, record in listed.items() if id not in seen
        }
        fresh = [id for id, version in versions.items() if known.get(id) != version]
        changed = {
            id: record.label or None
            for id, record in listed.items()
            if id in versions
            and known.get(id) == versions[id]
            and _relabels(record, labels[id], remove_missing)
        }
        gone = [id for id in known if id not in seen and id not in listed] if remove_missing else []
        if gone:
            index.remove(gone)
            logger.info("%s: %s removed, no longer there", index.place, counted(len(gone), "image"))
        relabelled = _relabel(index, changed, known)
        # A changed image whose path is spelled in another way now is added by its new name.
        renamed = {id: id_of(listed[id]) for id in fresh if id in known and id_of(listed[id]) != id}
        if fresh:
            added += index.add(
                [listed[id] for id in fresh],
                versions=[versions[id] for id in fresh],
                source=source,
            )
        if renamed:  # only those that could be read: the others stay as they were
            there = set(index.ids())
            renamed = {id: name for id, name in renamed.items() if name in there}
            index.remove(list(renamed))
    if added:
        logger.info("%s: %s added", index.place, counted(added, "image"))
    if relabelled:
        logger.info("%s: %s with another label now", index.place, counted(relabelled, "image"))
    clashes.warn(index.place)
    if len(index) == 0:
        raise DataError(f"the gallery: none of its {len(listed):,} images can be read")
    return {renamed.get(id, id): record for id, record in listed.items()}


def _check_paths(table: str, paths: Sequence[str]) -> None:
    """Check that relative paths in a file of vectors lead to images from the current folder.

    `embed` wrote them before it wrote absolute ones, and other programs do.

    Raises:
        DataError: none of them does.
    """
    local = (storage.local_path(path) for path in paths if not storage.is_remote(path))
    relative = [path for path in local if not os.path.isabs(path)]
    # Of an image inside of a larger file, that file is there.
    if relative and not any(
        os.path.exists(path) or os.path.exists(path.rpartition(": ")[0]) for path in relative
    ):
        raise DataError(
            f"{storage.public(table)}: its paths are relative ({relative[0]}), and lead to no "
            f"image from {os.getcwd()}; go to the folder where they do, or embed the images again, "
            "which writes absolute paths"
        )


def _relabels(record: Record, label: str | None, exactly: bool) -> bool:
    """True for an image with another label than in the index, or, with `exactly`, without it."""
    own = record.label or None
    return own != label and (own is not None or exactly)


def _relabel(index: Index, changed: Mapping[str, str | None], versions: Mapping[str, int]) -> int:
    """Give images of the index these labels; their vectors stay."""
    ids = list(changed)
    for at in range(0, len(ids), _BLOCK):
        some = ids[at : at + _BLOCK]
        stored = index.records(some)
        index.add(
            [stored[id] for id in some],
            vectors=index.vectors(some),
            ids=some,
            labels=[changed[id] for id in some],
            versions=[versions[id] for id in some],
        )
    return len(ids)


class _LabelClashes:
    """Images to which two places of a gallery give different labels."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, str]] = {}

    def compare(self, id: str, kept: str, other: str) -> None:
        """Note an image's label, and another one that may differ."""
        if kept and other and kept != other:
            self._found.setdefault(id, (kept, other))

    def warn(self, place: str) -> None:
        """Say how many there are, with an example."""
        for id, (kept, other) in islice(self._found.items(), 1):
            logger.warning(
                "%s: %s with different labels in the gallery (%s: %s and %s); the first counts",
                place, counted(len(self._found), "image"), id, kept, other,
            )  # fmt: skip


def _images_of_table(
    index: Index,
    table: str,
    listed: Mapping[str, Record],
    seen: dict[str, str],
    clashes: _LabelClashes,
) -> Iterator[tuple[dict[str, Record], np.ndarray]]:
    """The images of a file of vectors by their ids, block by block, and their (n, D) vectors.

    Those in `seen` are left out, and the others put there with their labels; images without one
    have that of `listed`.
    """
    # Ids that were given are no paths.
    named = vector_files.is_array(table) and storage.exists(vector_files.beside(table, "ids"))
    for records, vectors in vector_files.read_images(storage.absolute(table)):
        if vectors.shape[1] != index.dim:
            raise DataError(
                f"{storage.public(table)}: vectors of {vectors.shape[1]:,} numbers; those of "
                f"{index.place} have {index.dim:,}"
            )
        if not named:
            _check_paths(table, [record.uri for record in records])
            records = list(map(_placed, records))
        found: dict[str, Record] = {}
        rows = []
        for row, record in enumerate(records):
            id = id_of(record)
            if id in seen:
                clashes.compare(id, seen[id], record.label)
                continue
            if id in listed:
                clashes.compare(id, record.label, listed[id].label)
                record = replace(record, label=record.label or listed[id].label)
            seen[id] = sys.intern(record.label)
            found[id] = record
            rows.append(row)
        yield found, vectors[rows]


def _by_id(
    records: Sequence[Record], known: Collection[str], clashes: _LabelClashes
) -> dict[str, Record]:
    """The images by their ids in the index, or else their own: each image once.

    `./a.jpg`, a symbolic link to it and `file:///…/a.jpg` are one image.
    """
    place_of = storage.canonicalizer()
    names = {place_of(id): id for id in known if id[:1] == "/" or storage.is_remote(id)}
    listed: dict[str, Record] = {}
    for record in records:
        id = id_of(record)
        id = id if id in known else names.setdefault(place_of(id), id)
        first = listed.setdefault(id, record)
        clashes.compare(id, first.label, record.label)
        if record.label and not first.label:
            listed[id] = record
    return listed


def _check_models(place: str, models: Sequence[str] | None, index: Index) -> None:
    """Refuse vectors of another model.

    Raises:
        RunError: they are.
    """
    if models is None:
        logger.warning(
            "%s: a .npy file does not name the model of its vectors; they are taken for those "
            "of this one",
            storage.public(place),
        )
    elif index.model not in models:
        raise RunError(
            f"{storage.public(place)}: holds vectors of another model ({models[0][:8]}; the index "
            f"is of {index.model[:8]}), which cannot be compared; embed the images anew"
        )


class EverythingMatches(ConfigError):
    """Folders or patterns would remove all images of an index, without a confirmation."""


def remove(index: Index, wanted: Sequence[str], *, remove_all: bool = False) -> None:
    """Remove ids, folders and patterns, with a warning for each that matches nothing.

    Raises:
        EverythingMatches: folders or patterns match all images, and `remove_all` is not set.
    """
    ids = index.ids()
    there = set(ids)
    leaving: dict[str, None] = {}
    broad: str | None = None
    for item in wanted:
        names = (item, storage.absolute(item))
        found = [name for name in names if name in there]
        if not found:
            found = [
                id
                for id in ids
                if any(id.startswith(name.rstrip("/") + "/") for name in names)
                or ("*" in item and any(_fits(id, name) for name in names))
            ]
            broad = item if found else broad
        if not found:
            logger.warning("not in the index: %s", storage.public(item))
        leaving |= dict.fromkeys(found)
    if broad is not None and len(leaving) == len(ids) and not remove_all:
        raise EverythingMatches(
            f"--remove {storage.public(broad)} matches all {len(ids):,} images of {index.place}; "
            "nothing was removed. Add --yes (remove_all=True) to remove them all"
        )
    logger.info("%s: %s removed", index.place, counted(index.remove(leaving), "image"))


def _fits(id: str, pattern: str) -> bool:
    """True if an id matches; only `*` has a meaning, as ids have brackets and question marks."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), id, re.DOTALL) is not None


def records_at(
    places: Sequence[str],
    known: KnownLists = no_lists,
    layout: ListLayout = BY_CONTENT,
    joiner: str = JOINER,
) -> RecordTable:
    """The images of `read_places`, with absolute paths: an index is used from anywhere."""
    return RecordTable(map(_placed, read_places(places, known, layout, joiner)))


def _placed(record: Record) -> Record:
    uri = storage.absolute(record.uri)
    return record if uri == record.uri else replace(record, uri=uri)


def image_version(uri: str) -> int:
    """A number that changes with a local file; 0 for a remote one, which is taken as fixed."""
    if storage.is_remote(uri):
        return 0
    try:
        status = os.stat(uri)
    except OSError:
        return 0  # reading it will raise
    return (status.st_mtime_ns * 1_000_003 + status.st_size) & (2**63 - 1)
