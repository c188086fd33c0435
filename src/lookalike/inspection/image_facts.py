"""Facts of each picture, read once, in threads."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from lookalike.data.decoding.crop_box import decode_record
from lookalike.data.decoding.decode import BadImage, decode, jpeg_size
from lookalike.data.decoding.image_formats import format_of
from lookalike.data.loading.bad_images import image_fault
from lookalike.data.loading.image_source import PLAIN, Source, read_twice
from lookalike.data.loading.pipeline import Job, Work, pipeline
from lookalike.data.loading.read_ahead import PendingBytes
from lookalike.data.record import Record
from lookalike.errors import StorageError
from lookalike.inspection.fingerprint import (
    THUMB,
    colourfulness,
    contrast,
    perceptual_hash,
    small,
    thumbnail,
)
from lookalike.log import Bar

_PIECES = 64  # pictures of a job
_ENOUGH = (96, 96)  # a JPEG may be decoded as small as this: three times what is looked at


@dataclass(frozen=True)
class Pictures:
    """What was read of N pictures; where one could not be read, its facts are zeros.

    Some 0.9 kB a picture, nearly all of it the thumbnail.

    Attributes:
        rows: (N,) int64, ascending: which record each one is.
        readable: (N,) bool.
        sizes: (N, 2) int32, height and width in pixels, of the box where there is one.
        bytes: (N,) int64, of the file.
        digests: (N,) S16, of the file's content.
        hashes: (N,) uint64, see `perceptual_hash`.
        thumbs: (N, THUMB, THUMB, 3) uint8.
        contrast: (N,) float32, standard deviation of the grey levels of the small picture.
        colour: (N,) float32, mean difference of the largest and the smallest channel.
        formats: of each, by its first bytes; "" where unknown.
        reasons: index of N -> why it cannot be read.
        seconds: how long reading took.
    """

    rows: np.ndarray
    readable: np.ndarray
    sizes: np.ndarray
    bytes: np.ndarray
    digests: np.ndarray
    hashes: np.ndarray
    thumbs: np.ndarray
    contrast: np.ndarray
    colour: np.ndarray
    formats: list[str]
    reasons: dict[int, str]
    seconds: float


def read_pictures(
    records: Sequence[Record],
    rows: Sequence[int],
    *,
    threads: int,
    source: Source = PLAIN,
    quiet: bool = False,
) -> Pictures:
    """Read the pictures of these `rows`.

    Args:
        records: the images.
        rows: which to read, ascending.
        threads: threads that read and decode.
        source: of the images' bytes.
        quiet: show no progress.
    """
    count = len(rows)
    found = Pictures(
        rows=np.asarray(rows, np.int64),
        readable=np.zeros(count, bool),
        sizes=np.zeros((count, 2), np.int32),
        bytes=np.zeros(count, np.int64),
        digests=np.zeros(count, "S16"),
        hashes=np.zeros(count, np.uint64),
        thumbs=np.zeros((count, THUMB, THUMB, 3), np.uint8),
        contrast=np.zeros(count, np.float32),
        colour=np.zeros(count, np.float32),
        formats=[""] * count,
        reasons={},
        seconds=0.0,
    )
    began = time.monotonic()
    with Bar("images", count, unit="images", quiet=quiet) as bar:
        jobs = (
            _job(records, found, source, range(start, min(start + _PIECES, count)))
            for start in range(0, count, _PIECES)
        )
        for done in pipeline(jobs, source=source, threads=threads):
            bar.advance(done)
    return replace(found, seconds=time.monotonic() - began)


def _job(records: Sequence[Record], found: Pictures, source: Source, places: range) -> Job[int]:
    """Facts of the images at these places of `found`; how many."""
    wanted = [records[int(found.rows[place])] for place in places]

    def run(piece: int, pending: PendingBytes | None) -> None:
        place, record = places[piece], wanted[piece]
        try:
            read_twice(record, partial(_note, found, place, record), source, pending)
        except (BadImage, StorageError) as error:
            found.reasons[place] = image_fault(error, record)

    def start() -> Work[int]:
        return run, lambda: len(places)

    return Job(wanted, start)


def _note(found: Pictures, place: int, record: Record, data: bytes) -> None:
    """Write the facts of one picture to its place; nobody else writes there."""
    found.bytes[place] = len(data)
    found.formats[place] = format_of(data)
    boxed = record.details is not None and record.details.box is not None
    pixels = decode_record(record, data) if boxed else decode(data, min_size=_ENOUGH)
    found.sizes[place] = pixels.shape[:2] if boxed else jpeg_size(data) or pixels.shape[:2]
    square = small(pixels)
    found.digests[place] = _digest(data, record)
    found.hashes[place] = perceptual_hash(square)
    found.thumbs[place] = thumbnail(square)
    found.contrast[place] = contrast(square)
    found.colour[place] = colourfulness(square)
    found.readable[place] = True


def _digest(data: bytes, record: Record) -> bytes:
    """Of the file, and of the box where there is one. No NUL at its end, which numpy drops."""
    box = "" if record.details is None else repr(record.details.box or "")
    whole = hashlib.blake2b(data, digest_size=15, key=box.encode()[:64]).digest()
    return whole + b"\1"
