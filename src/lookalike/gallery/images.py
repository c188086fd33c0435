"""Images on their way into an index: embedded batch by batch, with ids, labels and places."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lookalike import storage
from lookalike.data.bad_images import BadImages, describe_bad
from lookalike.data.decode import ImageSource
from lookalike.data.record import Details, Member, Record
from lookalike.data.source import PLAIN, Source
from lookalike.errors import DataError
from lookalike.gallery.segment import Rows, table_of
from lookalike.inference import FinishedModel, embed_batches
from lookalike.log import Bar, logger
from lookalike.model.embedder import Embedder

_SECONDS = 60.0  # what a kill costs
_ROWS = 65536  # and at most

_NAMED = 20  # images that are left out and named one by one


@dataclass(frozen=True)
class Images:
    """Images to be added, each once.

    Attributes:
        sources: records, or images in memory.
        ids: of each.
        labels: of each; None where it is not known.
        versions: of each.
        kept: which of the images that were given each one is.
        given: how many these were.
    """

    sources: list[Record | ImageSource]
    ids: list[str]
    labels: list[str | None]
    versions: list[int]
    kept: list[int]
    given: int

    @classmethod
    def of(
        cls,
        images: Sequence[Record | ImageSource],
        ids: Sequence[str] | None,
        labels: Sequence[str | None] | None,
        versions: Sequence[int] | None,
    ) -> Images:
        """Give each image its id; of images with the same one, the last is taken.

        Raises:
            DataError: an image in memory without an id, or other numbers of ids or labels.
        """
        if isinstance(images, (str, bytes, Path)) or not isinstance(images, Sequence):
            raise DataError(f"add takes a list of images, not one {type(images).__name__}")
        for name, values in (("ids", ids), ("labels", labels), ("versions", versions)):
            if values is not None and len(values) != len(images):
                raise DataError(f"{len(images)} images, but {len(values)} {name}")
        sources = [
            Record(str(image), "", str(image), 0) if isinstance(image, (str, Path)) else image
            for image in images
        ]
        if ids is None:
            if not all(isinstance(source, Record) for source in sources):
                raise DataError("images in memory have no names: give ids, one for each")
            ids = [id_of(source) for source in sources if isinstance(source, Record)]
        for id in ids:
            if not isinstance(id, str) or not id:
                raise DataError(f"ids must be texts that are not empty, got {id!r}")
        if labels is None:
            labels = [
                source.label or None if isinstance(source, Record) else None for source in sources
            ]
        kept = sorted({id: row for row, id in enumerate(ids)}.values())
        return cls(
            [sources[row] for row in kept],
            [ids[row] for row in kept],
            [labels[row] for row in kept],
            [versions[row] if versions is not None else 0 for row in kept],
            kept,
            len(images),
        )

    def rows(self, kept: Sequence[int], vectors: np.ndarray) -> Rows:
        """Some of them with their vectors."""
        table = table_of(
            [self.ids[row] for row in kept],
            [self.labels[row] for row in kept],
            [_place(self.sources[row], self.ids[row]) for row in kept],
            [self.versions[row] for row in kept],
        )
        return Rows(vectors, table)


def stream(
    embedder: Embedder | FinishedModel, images: Images, *, threads: int, source: Source = PLAIN
) -> Iterator[Rows]:
    """The images as they are embedded, some at a time."""
    records = [source for source in images.sources if isinstance(source, Record)]
    if len(records) < len(images.sources):
        sources = [s.uri if isinstance(s, Record) else s for s in images.sources]
        yield images.rows(range(len(sources)), embedder.embed(sources, threads=threads))
        return
    bad = BadImages()
    rows: list[int] = []
    parts: list[np.ndarray] = []
    since = time.monotonic()
    with Bar("embedding", len(records), unit="images") as bar:
        found = embed_batches(embedder, records, threads=threads, bad=bad, source=source)
        for some, vectors in found:
            rows += some.tolist()
            parts.append(vectors.numpy())
            now = time.monotonic()
            done = int(some[-1]) + 1 - bar.done
            bar.advance(done)
            if now - since > _SECONDS or len(rows) >= _ROWS:
                yield images.rows(rows, np.concatenate(parts))
                rows, parts, since = [], [], time.monotonic()
    if rows:
        yield images.rows(rows, np.concatenate(parts))
    reasons = bad.reasons
    for row, reason in list(reasons.items())[:_NAMED]:
        logger.warning("left out: %s", describe_bad(records[row], reason))
    if len(reasons) > _NAMED:
        logger.warning("left out: %d more images that cannot be read", len(reasons) - _NAMED)


def id_of(record: Record) -> str:
    """The record's URI without secrets, with the part of the file and the box where it has them."""
    id = storage.lasting(record.uri)
    if record.member is not None:
        id += f"#{record.member.name}"
    if record.details is not None and record.details.box is not None:
        id += "#" + ",".join(map(str, record.details.box))
    return id


def _place(source: Record | ImageSource, id: str) -> str | None:
    """Where the image is, as JSON; None if its id says so, or if it is nowhere."""
    if not isinstance(source, Record):
        return None
    place: dict[str, Any] = {}
    if source.member is not None:
        place["member"] = [source.member.name, source.member.offset, source.member.size]
    if source.details is not None and source.details.box is not None:
        place["box"] = list(source.details.box)
        if source.details.relative:
            place["relative"] = True
    uri = storage.lasting(source.uri)
    if place or uri != id:
        place["uri"] = uri
    return json.dumps(place) if place else None


def record_from(id: str, label: str | None, place: str | None) -> Record:
    """The record of a row."""
    said = json.loads(place) if place else {}
    member = Member(*said["member"]) if "member" in said else None
    details = None
    if "box" in said:
        details = Details(box=tuple(said["box"]), relative=bool(said.get("relative", False)))
    uri = said.get("uri", id)
    return Record(uri, label or "", storage.public(uri), 0, member, details)
