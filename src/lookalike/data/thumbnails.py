"""Small pictures for pages that hold everything inside: data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from PIL import Image

from lookalike.data.batch import read_twice
from lookalike.data.decode import BadImage, decode
from lookalike.data.pixels import picture
from lookalike.data.prefetch import Job, in_order
from lookalike.data.record import Record
from lookalike.errors import StorageError

_AHEAD = 16


def data_uris(records: Sequence[Record], side: int, threads: int) -> list[str]:
    """JPEGs of at most `side` pixels a side as data URIs; "" for those that cannot be read."""
    return list(in_order(_jobs(records, side), threads, _AHEAD))


def _jobs(records: Sequence[Record], side: int) -> Iterator[Job[str]]:
    for record in records:
        yield _PictureJob(record, side)


class _PictureJob:
    size = 1

    def __init__(self, record: Record, side: int) -> None:
        self._record, self._side = record, side
        self._uri = ""

    def run(self, piece: int) -> None:
        try:
            self._uri = read_twice(self._record, partial(_data_uri, self._record, self._side))
        except (BadImage, StorageError):
            self._uri = ""  # whoever shows it says why, or shows an empty frame

    def result(self) -> str:
        return self._uri


def _data_uri(record: Record, side: int, data: bytes) -> str:
    boxed = record.details is not None and record.details.box is not None
    pixels = picture(record, data) if boxed else decode(data, min_size=(side, side))
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((side, side))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
