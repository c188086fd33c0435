"""Which way is up: the EXIF orientation, read without decoding, and applied to pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image

_TAG = 0x0112


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """`pixels` (H, W, 3) turned and mirrored as the EXIF orientation, 1 to 8, says."""
    if orientation == 1:
        return pixels
    if orientation in (3, 4, 6, 7):
        pixels = pixels[::-1]
    if orientation in (2, 3, 7, 8):
        pixels = pixels[:, ::-1]
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    return np.ascontiguousarray(pixels)


def lying(
    box: tuple[int, int, int, int], size: tuple[int, int], orientation: int
) -> tuple[int, int, int, int]:
    """Where `box` of the upright picture lies in the pixels as they are stored.

    Args:
        box: top, left, height, width in the upright picture.
        size: height and width of the stored pixels.
        orientation: EXIF, 1 to 8.
    """
    top, left, height, width = box
    if orientation >= 5:
        top, left, height, width = left, top, width, height
    if orientation in (2, 3, 7, 8):
        left = size[1] - left - width
    if orientation in (3, 4, 6, 7):
        top = size[0] - top - height
    return top, left, height, width


def pil_orientation(image: Image.Image) -> int:
    """The EXIF orientation of a PIL image; 1, upright, where there is none or it is damaged."""
    try:
        value = image.getexif().get(_TAG, 1)
    except Exception:  # damaged metadata do not spoil the pixels, as for JPEG below
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def jpeg_orientation(data: bytes) -> int:
    """The EXIF orientation of a JPEG's bytes; 1, upright, where there is none or it is damaged."""
    position = 2
    while data[position : position + 1] == b"\xff":
        marker = data[position + 1 : position + 2]
        if marker in (b"", b"\xda", b"\xd9"):  # the picture begins, or nothing does
            break
        if marker == b"\xff":  # filling
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == b"\xe1" and data[position + 4 : position + 10] == b"Exif\0\0":
            return _exif_orientation(data[position + 10 : position + 2 + length])
        position += 2 + length
    return 1


def _exif_orientation(block: bytes) -> int:
    """The orientation in the first directory of an EXIF block (which is a small TIFF file)."""
    byteorder = {b"II": "little", b"MM": "big"}.get(block[:2])
    if byteorder is None:
        return 1

    def number(start: int, size: int) -> int:
        return int.from_bytes(block[start : start + size], byteorder)  # type: ignore[arg-type]

    directory = number(4, 4)
    for entry in range(directory + 2, directory + 2 + 12 * min(number(directory, 2), 512), 12):
        if number(entry, 2) == _TAG:
            size = {3: 2, 4: 4}.get(number(entry + 2, 2), 0)  # short, long; nothing else is right
            value = number(entry + 8, size)
            return value if 1 <= value <= 8 else 1
    return 1
