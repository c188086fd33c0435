"""Facts of each image, read once, in threads.

A fingerprint of 64 bits and 16 x 16 pixels hardly changes when an image is encoded or scaled anew.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from lookalike.data.decoding.crop_box import decode_record
from lookalike.data.decoding.decode import BadImage, decode, jpeg_header
from lookalike.data.decoding.image_formats import format_of
from lookalike.data.decoding.resize import resize
from lookalike.data.loading.bad_images import image_fault
from lookalike.data.loading.image_source import PLAIN, Source, read_twice
from lookalike.data.loading.pipeline import Job, Work, pipeline
from lookalike.data.loading.read_ahead import PendingBytes
from lookalike.data.record import Record
from lookalike.errors import StorageError
from lookalike.log import Bar

_PIECES = 64  # images of a job
_ENOUGH = (96, 96)  # a JPEG may be decoded as small as this: three times SIDE

SIDE = 32
"""Pixels a side of the square that a fingerprint is computed of."""

THUMB = 16
"""Pixels a side of the square on which two images are compared."""

_LOW = 8  # frequencies a side
_ABOVE = 0.5  # of the mean absolute coefficient


def _cosines() -> np.ndarray:
    """The first rows of the orthonormal DCT-II, (_LOW + 1, SIDE) float32."""
    k, n = np.arange(_LOW + 1)[:, None], np.arange(SIDE)[None]
    rows = np.sqrt(2 / SIDE) * np.cos(np.pi * (n + 0.5) * k / SIDE)
    rows[0] /= np.sqrt(2)
    return rows.astype(np.float32)


_COSINES = _cosines()
_ORDER = np.argsort(
    [a * a + b * b for a in range(_LOW + 1) for b in range(_LOW + 1)], kind="stable"
)[1:65]
GREY = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in luma."""


@dataclass(frozen=True)
class ImageFacts:
    """Facts of N images, some 0.9 kB each; zeros where one could not be read.

    Attributes:
        rows: (N,) int64, ascending, record of each image.
        readable: (N,) bool.
        sizes: (N, 2) int32, height and width in pixels, of the box where there is one.
        bytes: (N,) int64, of the file.
        digests: (N,) S16, of the file's content.
        hashes: (N,) uint64, see `perceptual_hash`.
        thumbs: (N, THUMB, THUMB, 3) uint8.
        contrast: (N,) float32, standard deviation of the grey levels of the image at SIDE x SIDE.
        colour: (N,) float32, mean difference of the largest and the smallest channel.
        formats: of each, by its first bytes; "" where unknown.
        reasons: index of N -> reason that it cannot be read.
        seconds: of reading.
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


def read_image_facts(
    records: Sequence[Record],
    rows: Sequence[int],
    *,
    source: Source = PLAIN,
    quiet: bool = False,
) -> ImageFacts:
    """Read the images of these `rows`, ascending."""
    count = len(rows)
    found = ImageFacts(
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
        for done in pipeline(jobs, source=source):
            bar.advance(done)
    return replace(found, seconds=time.monotonic() - began)


def _job(records: Sequence[Record], found: ImageFacts, source: Source, places: range) -> Job[int]:
    part = [records[int(found.rows[place])] for place in places]

    def run(piece: int, pending: PendingBytes | None) -> None:
        place, record = places[piece], part[piece]
        try:
            read_twice(record, partial(_note, found, place, record), source, pending)
        except (BadImage, StorageError) as error:
            found.reasons[place] = image_fault(error, record)

    def start() -> Work[int]:
        return run, lambda: len(places)

    return Job(part, start)


def _note(found: ImageFacts, place: int, record: Record, data: bytes) -> None:
    """Write the facts of one image; each place is written by one thread."""
    found.bytes[place] = len(data)
    found.formats[place] = format_of(data)
    boxed = record.details is not None and record.details.box is not None
    pixels = decode_record(record, data) if boxed else decode(data, min_size=_ENOUGH)
    header = None if boxed else jpeg_header(data)
    found.sizes[place] = pixels.shape[:2] if header is None else header.upright_size
    square = small(pixels)
    found.digests[place] = _digest(data, record)
    found.hashes[place] = perceptual_hash(square)
    found.thumbs[place] = thumb(square)
    found.contrast[place] = contrast(square)
    found.colour[place] = colourfulness(square)
    found.readable[place] = True


def _digest(data: bytes, record: Record) -> bytes:
    """Of the file and the box. Without a NUL at its end, which numpy drops."""
    box = "" if record.details is None else repr(record.details.box or "")
    whole = hashlib.blake2b(data, digest_size=15, key=box.encode()[:64]).digest()
    return whole + b"\1"


def small(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (SIDE, SIDE, 3) float32, squeezed to a square."""
    return resize(pixels, SIDE, SIDE, "bilinear").permute(1, 2, 0).numpy().astype(np.float32)


def perceptual_hash(square: np.ndarray) -> int:
    """64 bits of `small`: strong coefficients of the lowest frequencies of luma.

    As the usual pHash, but compared with a share of the mean absolute coefficient, not with the
    median: that of a symmetric image, or of one on a plain ground, is near zero, where noise would
    decide half of the bits.
    """
    grey = square @ GREY  # (SIDE, SIDE)
    waves = (_COSINES @ grey @ _COSINES.T).ravel()[_ORDER]  # (64,)
    bits = waves > _ABOVE * np.abs(waves).mean()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def thumb(square: np.ndarray) -> np.ndarray:
    """`small` at half its side, (THUMB, THUMB, 3) uint8: means of 2 x 2 pixels."""
    # Sums of slices: numpy's reductions over such short axes are ten times slower.
    pairs = square[::2] + square[1::2]
    return np.rint((pairs[:, ::2] + pairs[:, 1::2]) / 4).astype(np.uint8)


def contrast(square: np.ndarray) -> float:
    """Standard deviation of the luma of `small`, in grey levels."""
    return float((square @ GREY).std())


def colourfulness(square: np.ndarray) -> float:
    """Mean difference of the largest and the smallest channel of `small`, in grey levels."""
    red, green, blue = (np.ascontiguousarray(square[..., channel]) for channel in range(3))
    most = np.maximum(np.maximum(red, green), blue)
    least = np.minimum(np.minimum(red, green), blue)
    return float((most - least).mean())
