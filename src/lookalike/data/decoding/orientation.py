"""The orientation in EXIF or XMP, read without decoding, and applied to pixels.

EXIF counts where both state one; XMP where EXIF states none. The same in all formats.
"""

from __future__ import annotations

import re

import numpy as np
from PIL import Image

from lookalike.data.decoding.jpeg_markers import segments

_TAG = 0x0112
_XMP = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])\s*[\"'<]")
_XMP_SEGMENT = b"http://ns.adobe.com/xap/1.0/\0"


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """`pixels` (H, W, 3) turned and mirrored by its orientation, 1 to 8."""
    if orientation == 1:
        return pixels
    if orientation in (3, 4, 6, 7):
        pixels = pixels[::-1]
    if orientation in (2, 3, 7, 8):
        pixels = pixels[:, ::-1]
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    return np.ascontiguousarray(pixels)


def stored_box(
    box: tuple[int, int, int, int], size: tuple[int, int], orientation: int
) -> tuple[int, int, int, int]:
    """`box` (top, left, height, width) of the upright image, in stored pixels of `size` (H, W)."""
    top, left, height, width = box
    if orientation >= 5:
        top, left, height, width = left, top, width, height
    if orientation in (2, 3, 7, 8):
        left = size[1] - left - width
    if orientation in (3, 4, 6, 7):
        top = size[0] - top - height
    return top, left, height, width


def pil_orientation(image: Image.Image) -> int:
    """The orientation of a PIL image; 1, upright, where none is stated or it is damaged."""
    try:
        value = image.getexif().get(_TAG)
    except Exception:  # damaged metadata do not spoil the pixels, as for JPEG below
        value = None
    if isinstance(value, int) and 1 <= value <= 8:
        return value
    xmp = image.info.get("xmp", b"")
    return _xmp_orientation(xmp if isinstance(xmp, bytes) else b"") or 1


def jpeg_orientation(data: bytes) -> int:
    """The orientation of a JPEG's bytes; 1, upright, where none is stated or it is damaged."""
    by_xmp = 0
    for marker, start, end in segments(data):
        if marker != 0xE1:
            continue
        if data.startswith(b"Exif\0\0", start):
            by_exif = _exif_orientation(data[start + 6 : end])
            if by_exif:
                return by_exif
        elif data.startswith(_XMP_SEGMENT, start):
            by_xmp = by_xmp or _xmp_orientation(data[start + len(_XMP_SEGMENT) : end])
    return by_xmp or 1


def _xmp_orientation(packet: bytes) -> int:
    """The orientation in an XMP packet; 0 where it states none."""
    found = _XMP.search(packet)
    return int(found[1]) if found else 0


def _exif_orientation(block: bytes) -> int:
    """The orientation in an EXIF block's first directory (it is a small TIFF); 0 without one."""
    byteorder = {b"II": "little", b"MM": "big"}.get(block[:2])
    if byteorder is None:
        return 0

    def number(start: int, size: int) -> int:
        return int.from_bytes(block[start : start + size], byteorder)  # type: ignore[arg-type]

    directory = number(4, 4)
    for entry in range(directory + 2, directory + 2 + 12 * min(number(directory, 2), 512), 12):
        if number(entry, 2) == _TAG:
            size = {3: 2, 4: 4}.get(number(entry + 2, 2), 0)  # short, long; nothing else is right
            value = number(entry + 8, size)
            return value if 1 <= value <= 8 else 0
    return 0
