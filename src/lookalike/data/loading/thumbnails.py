"""Small images for self-contained pages."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

import numpy as np
from PIL import Image

from lookalike.data.decoding.crop_box import decode_record
from lookalike.data.decoding.decode import BadImage, decode
from lookalike.data.loading.image_source import PLAIN, Source, read_twice
from lookalike.data.loading.pipeline import Job, Work, pipeline
from lookalike.data.loading.read_ahead import PendingBytes
from lookalike.data.record import Record
from lookalike.errors import StorageError

_AHEAD = 16

T = TypeVar("T")


def thumbnails(
    records: Sequence[Record],
    side: int,
    convert: Callable[[Image.Image], T],
    *,
    source: Source = PLAIN,
) -> Generator[T | None, None, None]:
    """`convert` of each record's image of at most `side` pixels a side; None if it is unreadable.

    Both steps run in the threads: images are many and may be large.
    """

    def job(record: Record) -> Job[T | None]:
        def start() -> Work[T | None]:
            made: list[T] = []

            def run(piece: int, pending: PendingBytes | None) -> None:
                try:
                    image = read_twice(
                        record, lambda data: _thumbnail(record, side, data), source, pending
                    )
                except (BadImage, StorageError):
                    return  # reported where it is used; a page shows an empty frame
                made.append(convert(image))

            return run, lambda: made[0] if made else None

        return Job([record], start)

    return pipeline(map(job, records), source=source, ahead=_AHEAD)


def data_uris(records: Sequence[Record], side: int, source: Source = PLAIN) -> list[str]:
    """JPEGs of at most `side` pixels a side as data URIs; "" for unreadable ones."""
    found = thumbnails(records, side, _jpeg_uri, source=source)
    return [uri or "" for uri in found]


def data_uri(pixels: np.ndarray, side: int) -> str:
    """A JPEG of at most `side` pixels a side of (H, W, 3) uint8 RGB as a data URI."""
    return _jpeg_uri(_shrunk(pixels, side))


def _thumbnail(record: Record, side: int, data: bytes) -> Image.Image:
    boxed = record.details is not None and record.details.box is not None
    pixels = decode_record(record, data) if boxed else decode(data, min_size=(side, side))
    return _shrunk(pixels, side)


def _shrunk(pixels: np.ndarray, side: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((side, side))
    return image


def _jpeg_uri(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
