"""Small pictures for pages that hold everything inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Generator, Sequence
from functools import partial

import numpy as np
from PIL import Image

from lookalike.data.decoding.crop_box import picture
from lookalike.data.decoding.decode import BadImage, decode
from lookalike.data.loading.batch import made_ahead, read_twice, ticket_of
from lookalike.data.loading.image_source import PLAIN, Source, Tickets
from lookalike.data.record import Record
from lookalike.errors import StorageError

_AHEAD = 16


def data_uris(
    records: Sequence[Record], side: int, threads: int, source: Source = PLAIN
) -> list[str]:
    """JPEGs of at most `side` pixels a side as data URIs; "" for those that cannot be read."""
    found: Generator[str, None, None] = made_ahead(
        (range(row, row + 1) for row in range(len(records))),
        lambda one, tickets: _PictureJob(records[one[0]], side, source, tickets),
        source=source,
        record_of=records.__getitem__,
        threads=threads,
        ahead=_AHEAD,
    )
    return list(found)


class _PictureJob:
    size = 1

    def __init__(self, record: Record, side: int, source: Source, tickets: Tickets | None) -> None:
        self.tickets = tickets
        self._record, self._side, self._source = record, side, source
        self._uri = ""

    def run(self, piece: int) -> None:
        try:
            use = partial(_data_uri, self._record, self._side)
            self._uri = read_twice(self._record, use, self._source, ticket_of(self, piece))
        except (BadImage, StorageError):
            self._uri = ""  # whoever shows it says why, or shows an empty frame

    def result(self) -> str:
        return self._uri


def thumbnail(record: Record, side: int, data: bytes) -> Image.Image:
    """The record's picture in `data` with at most `side` pixels a side.

    Raises:
        BadImage: it cannot be decoded, or its box lies outside of it.
    """
    boxed = record.details is not None and record.details.box is not None
    pixels = picture(record, data) if boxed else decode(data, min_size=(side, side))
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((side, side))
    return image


def _data_uri(record: Record, side: int, data: bytes) -> str:
    stream = io.BytesIO()
    thumbnail(record, side, data).save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
