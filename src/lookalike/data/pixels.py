"""The picture of a record: decoded, and cut to its box."""

from __future__ import annotations

import numpy as np

from lookalike.data.decode import BadImage, decode
from lookalike.data.part import Box
from lookalike.data.record import Record


def picture(record: Record, data: bytes) -> np.ndarray:
    """The record's picture in `data`, (H, W, 3) uint8; a view of a larger one if it has a box.

    Raises:
        BadImage: it cannot be decoded, or the box lies outside of it.
    """
    pixels = decode(data)
    top, left, height, width = part_used(record, pixels.shape[:2])
    return pixels[top : top + height, left : left + width]


def part_used(record: Record, size: tuple[int, ...]) -> Box:
    """The part of a picture of `size` (height, width) that is the record's.

    Raises:
        BadImage: the record's box lies outside of it.
    """
    height, width = size
    if record.details is None or record.details.box is None:
        return 0, 0, height, width
    left, top, right, bottom = record.details.box
    x, y, right, bottom = max(0, left), max(0, top), min(width, right), min(height, bottom)
    if right <= x or bottom <= y:
        raise BadImage(
            f"the box x {left} to {record.details.box[2]}, y {top} to {record.details.box[3]} lies "
            f"outside of the picture of {width} x {height} pixels"
        )
    return y, x, bottom - y, right - x
