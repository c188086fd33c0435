"""Decoding of the rows of a JPEG down to the end of a crop, and not of those below it.

A header that states fewer rows makes a decoder stop there. Rows above the crop must be decoded:
each block of a JPEG is coded as its difference from the one before.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import simplejpeg

from lookalike.data.decoding.decode import MAX_PIXELS, BadImage, JpegHeader, decode
from lookalike.data.decoding.jpeg_markers import segments
from lookalike.data.decoding.orientation import stored_box, upright

Box = tuple[int, int, int, int]
"""top, left, height, width in pixels."""

LEAST_BELOW = 2**14
"""Pixels below the crop from which on fewer rows are worth it: each saves 3 ns, and to look through
the file twice, as the check here and the decoder's search for its end do, takes 25 us."""

# Upsampled chroma is interpolated from the rows beside; the last row of an image has none below.
_MARGIN = 2

_SUBSAMPLINGS = ("444", "422", "420")


def decode_part(data: bytes, box: Box, header: JpegHeader) -> np.ndarray:
    """The pixels of `decode(data)` at `box`, bit for bit, with less work where that is possible.

    The box lies inside of the upright image. The result may be a view of a larger array.

    Raises:
        BadImage: see `decode`.
    """
    pixels = decode_upper_part(data, box, header)
    if pixels is not None:
        return pixels
    top, left, height, width = box
    pixels = decode(data, header=header)[top : top + height, left : left + width]
    if pixels.shape[:2] != (height, width):
        raise BadImage("damaged (its header gives another size than its pixels have)")
    return pixels


def decode_upper_part(data: bytes, box: Box, header: JpegHeader) -> np.ndarray | None:
    """`decode_part` without the rows below; None where all rows must be decoded."""
    height, width = header.size
    top, left, rows, columns = stored_box(box, header.size, header.orientation)
    last = min(top + rows + _MARGIN, height)
    if (height - last) * width < LEAST_BELOW or height * width > MAX_PIXELS:
        return None
    if header.colorspace != "YCbCr" or header.subsampling not in _SUBSAMPLINGS:
        return None
    scan = _sound_scan(data)
    if scan is None:
        return None
    at = scan.height
    shorter = b"".join((data[:at], last.to_bytes(2, "big"), data[at + 2 :]))
    try:
        # Not strict: the bits of the other rows are too many before the end marker.
        pixels = simplejpeg.decode_jpeg(shorter, "RGB", strict=False)
    except ValueError:
        return None
    if pixels.shape != (last, width, 3):
        return None
    return upright(pixels[top : top + rows, left : left + columns], header.orientation)


class Scan(NamedTuple):
    """Positions in a JPEG file.

    Attributes:
        height: of the two bytes that state the number of rows.
        start: of the entropy-coded data.
    """

    height: int
    start: int


def only_scan(data: bytes) -> Scan | None:
    """The scan of a baseline JPEG of three components in one scan; else None."""
    height = None
    for marker, start, end in segments(data):
        if marker == 0xC0:
            height = start + 1 if data[start : start + 1] == b"\x08" else None  # bits
        elif marker == 0xDD and data[start : start + 2] != b"\0\0":  # restart markers
            return None
        elif marker == 0xDA:
            three = data[start : start + 1] == b"\x03"
            return Scan(height, end) if height is not None and three else None
        elif not (0xE0 <= marker <= 0xEF or marker in (0xC4, 0xDB, 0xDD, 0xFE)):
            return None  # another kind of JPEG
    return None


def _sound_scan(data: bytes) -> Scan | None:
    """The only scan, if it has no marker but the end of the file; else None.

    Bits of such a scan are never an error to PIL, so no file is refused for what lies outside of
    the part.
    """
    scan = only_scan(data)
    if scan is None or not data.endswith(b"\xff\xd9"):
        return None
    bits = np.frombuffer(data, np.uint8, offset=scan.start)
    # 0xff is followed by 0 everywhere but in the end marker; NumPy looks without the GIL.
    alone = int(np.count_nonzero((bits[:-1] == 0xFF) & (bits[1:] != 0))) == 1
    return scan if alone else None
