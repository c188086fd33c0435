"""Images for an index: their ids, labels and places, and their vectors, batch by batch."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from lookalike import storage
from lookalike.data.loading.bad_images import BadImages, warn_left_out
from lookalike.data.loading.image_source import Source
from lookalike.data.record import Details, Member, Record
from lookalike.errors import DataError
from lookalike.index.store import StoredRows, table_of
from lookalike.log import Bar
from lookalike.model.embedder import Embedder
from lookalike.model.inference import FinishedModel, embed_batches
from lookalike.model.user_images import several

Texts = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
"""One id, or several."""

_SECONDS, _ROWS = 60.0, 65536  # of work that a kill may cost


@dataclass(frozen=True)
class NewImages:
    """Images to add, with distinct ids.

    Attributes:
        sources: records, or images in memory.
        kept: the position of each among the given images.
        given: the number of these.
    """

    sources: list[Record | Any]
    ids: list[str]
    labels: list[str | None]
    versions: list[int]
    kept: list[int]
    given: int

    @classmethod
    def of(
        cls,
        images: Any,
        ids: Any = None,
        labels: Any = None,
        versions: Any = None,
    ) -> NewImages:
        """Give each image its id; of images with the same id, the last is taken.

        Args:
            images: one or several records, or images as `Embedder.embed` takes them.
            ids: one text for one image, or one for each.
            labels: likewise, None where one is unknown.
            versions: likewise, integers.

        Raises:
            DataError: an image in memory without an id, another number of ids or labels, or ids
                and labels that are no texts.
        """
        sources, single = _records(images)
        ids = _each("ids", ids, len(sources), single, str)
        labels = _each("labels", labels, len(sources), single, str)
        versions = _each("versions", versions, len(sources), single, Integral)
        if ids is None:
            if not all(isinstance(source, Record) for source in sources):
                raise DataError("images in memory have no names: give ids, one for each")
            ids = [id_of(source) for source in sources if isinstance(source, Record)]
        ids = [checked_id(id) for id in ids]
        for label in labels or ():
            if label is not None and not isinstance(label, str):
                raise DataError(
                    f"labels must be strings, or None where there is none; got {label!r}: write "
                    f"it as text, {str(label)!r}"
                )
        if labels is None:
            labels = [
                source.label or None if isinstance(source, Record) else None for source in sources
            ]
        labels = [None if label is None else checked_text(label, "label") for label in labels]
        kept = sorted({id: row for row, id in enumerate(ids)}.values())
        return cls(
            [sources[row] for row in kept],
            [ids[row] for row in kept],
            [labels[row] for row in kept],
            [int(versions[row]) if versions is not None else 0 for row in kept],
            kept,
            len(sources),
        )

    def rows(self, kept: Sequence[int], vectors: np.ndarray) -> StoredRows:
        """The images at `kept` with their vectors."""
        table = table_of(
            [self.ids[row] for row in kept],
            [self.labels[row] for row in kept],
            [image_place(self.sources[row], self.ids[row]) for row in kept],
            [self.versions[row] for row in kept],
        )
        return StoredRows(vectors, table)


def _records(images: Any) -> tuple[list[Record | Any], bool]:
    """Records of paths and URIs, other images as they are; and True for a single image."""
    if isinstance(images, Record):
        return [images], True
    if isinstance(images, Sequence) and any(isinstance(image, Record) for image in images):
        found, single = list(images), False
    else:
        given, single = several(images)
        found = list(given)
    return [
        Record(os.fspath(image), "", os.fspath(image), 0)
        if isinstance(image, (str, os.PathLike))
        else image
        for image in found
    ], single


def _each(name: str, values: Any, count: int, single: bool, kind: type) -> list[Any] | None:
    """One value for each of `count` images; for a single image, the value alone is enough."""
    if values is None:
        return None
    alone = isinstance(values, (kind, os.PathLike, bytes)) or not isinstance(values, Iterable)
    if alone and not single:
        raise DataError(f"{count} images, but one of {name}: {values!r}; give one for each")
    found = [values] if alone else list(values)
    if len(found) != count:
        raise DataError(f"{count} images, but {len(found)} {name}")
    if kind is Integral and not all(isinstance(value, Integral) for value in found):
        raise DataError(f"{name} must be integers")
    return found


def checked_id(id: object) -> str:
    """An id as a text.

    Raises:
        DataError: it is no text, empty, or cannot be written as UTF-8.
    """
    if isinstance(id, os.PathLike):
        id = os.fspath(id)
    if not isinstance(id, str) or not id:
        raise DataError(f"ids must be non-empty strings, got {id!r}")
    return checked_text(id, "id")


def texts_of(ids: Texts | None) -> list[str]:
    """One id or several as texts.

    Raises:
        DataError: one is no text, empty, or cannot be written as UTF-8.
    """
    given = [ids] if isinstance(ids, (str, os.PathLike)) else ids
    if isinstance(given, (bytes, bytearray)) or not isinstance(given, Iterable):
        raise DataError(f"ids must be a string or several, not {type(given).__name__}")
    return list(map(checked_id, given))


def checked_text(text: str, what: str) -> str:
    """A text that can be written as UTF-8.

    Raises:
        DataError: it holds half of a surrogate pair, as names of other encodings do.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{what} {text!a} is not valid Unicode (it has a lone surrogate, as file names in "
            "another encoding have): rename the file, or give another id"
        ) from None
    return str(text)


def embedded(
    embedder: Embedder | FinishedModel, images: NewImages, source: Source
) -> Iterator[StoredRows]:
    """Rows of the readable images, as they are embedded: about a minute's work at a time."""
    records = [source for source in images.sources if isinstance(source, Record)]
    if len(records) < len(images.sources):
        sources = [s.uri if isinstance(s, Record) else s for s in images.sources]
        yield images.rows(range(len(sources)), embedder.embed(sources, threads=source.threads))
        return
    bad = BadImages()
    rows: list[int] = []
    parts: list[np.ndarray] = []
    since = time.monotonic()
    with Bar("embedding", len(records), unit="images") as bar:
        found = embed_batches(embedder, records, bad=bad, source=source)
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
    warn_left_out(records, bad.reasons)


def id_of(record: Record) -> str:
    """The record's URI without secrets, with its part of the file and its box."""
    id = storage.unsigned(record.uri)
    if record.member is not None:
        id += f"#{record.member.name}"
    if record.details is not None and record.details.box is not None:
        id += "#" + ",".join(map(str, record.details.box))
    return id


def image_place(source: object, id: str) -> str | None:
    """The place of an image as JSON; None if its id is the place, or if it has none."""
    if not isinstance(source, Record):
        return None
    place: dict[str, Any] = {}
    if source.member is not None:
        place["member"] = [source.member.name, source.member.offset, source.member.size]
    if source.details is not None and source.details.box is not None:
        place["box"] = list(source.details.box)
        if source.details.relative:
            place["relative"] = True
    uri = storage.unsigned(source.uri)
    if place or uri != id:
        place["uri"] = uri
    return json.dumps(place) if place else None


def record_from(id: str, label: str | None, place: str | None) -> Record:
    """The record of a row of an index."""
    fields = json.loads(place) if place else {}
    member = Member(*fields["member"]) if "member" in fields else None
    details = None
    if "box" in fields:
        details = Details(box=tuple(fields["box"]), relative=bool(fields.get("relative", False)))
    uri = fields.get("uri", id)
    return Record(uri, label or "", storage.public(uri), 0, member, details)
