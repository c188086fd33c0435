"""Vectors that go into an index part by part, as they are made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from lookalike.data.record import Record
from lookalike.index.index import Index
from lookalike.index.new_images import NewImages, id_of
from lookalike.index.segment_search import normalized
from lookalike.index.sync import image_version
from lookalike.log import logger
from lookalike.vectors.vector_parts import Part, Parts, Request


class StoredParts(Parts):
    """Parts whose vectors are in an index; the folder keeps which of them are done.

    A part is written after the index holds its rows. So a kill in between costs its vectors once
    more, and loses none.
    """

    def __init__(
        self, folder: Path, request: Request, index: Index, records: Sequence[Record]
    ) -> None:
        super().__init__(folder, request)
        self.index = index
        self._records = records

    def begin(self, *, restart: bool) -> None:
        """As `Parts.begin`; a part whose rows the index has lost since is made again."""
        super().begin(restart=restart)
        for number in sorted(self.done()):
            ids = {id_of(self._records[row]) for row in self.read(number).rows.tolist()}
            there = sum(len(rows.table) for rows in self.index.store.read(list(ids)))
            if there < len(ids):
                logger.warning(
                    "%s: %d images of part %d are no longer there; they are embedded again",
                    self.index.place, len(ids) - there, number,
                )  # fmt: skip
                self.remove_part(number)

    def write(self, number: int, part: Part) -> None:
        """Put the part's rows into the index, and remember that."""
        _put(part, self._records, self.index)
        super().write(number, replace(part, vectors=part.vectors[:, :0]))


class IndexedParts:
    """Parts that workers on several machines put into one index, which holds those that are done.

    Attributes:
        count: images that this worker has put there.
        bad: the reasons why it could not read others, by row.
    """

    def __init__(self, request: Request, index: Index, records: Sequence[Record]) -> None:
        self.request = request
        self.index = index
        self._records = records
        self.count = 0
        self.bad: dict[int, str] = {}

    def missing(self, numbers: Iterable[int]) -> list[int]:
        """Those of these parts that the index does not hold whole, with the images' versions."""
        return [number for number in numbers if not self._is_there(number)]

    def _is_there(self, number: int) -> bool:
        records = [self._records[row] for row in self.request.rows(number)]
        wanted = {id_of(record): image_version(record.uri) for record in records}
        found: set[tuple[str, int]] = set()
        for rows in self.index.store.read(list(wanted)):
            ids, versions = (rows.table[name].to_pylist() for name in ("id", "version"))
            found |= set(zip(ids, versions, strict=True))
        return found == set(wanted.items())

    def write(self, number: int, part: Part) -> None:
        """Put the part's rows into the index."""
        _put(part, self._records, self.index)
        self.count += len(part.rows)
        self.bad |= part.bad


def _put(part: Part, records: Sequence[Record], index: Index) -> None:
    """Upsert the rows of a part."""
    readable = [records[row] for row in part.rows.tolist()]
    if readable:
        images = NewImages.of(readable, versions=[image_version(one.uri) for one in readable])
        vectors = normalized(part.vectors[images.kept], index.dim, images.ids)
        index.store.upsert(images.rows(range(len(images.ids)), vectors))
