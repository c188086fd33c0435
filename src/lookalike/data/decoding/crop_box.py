"""The image of a record: decoded, and cut to its box."""

from __future__ import annotations

import numpy as np

from lookalike.data.decoding.decode import BadImage, decode
from lookalike.data.decoding.partial_jpeg import Box
from lookalike.data.record import LEAST_SIDE, Record


def decode_record(record: Record, data: bytes) -> np.ndarray:
    """The record's image in `data`, (H, W, 3) uint8; a view of a larger one if it has a box.

    Raises:
        BadImage: it cannot be decoded, or the box lies outside of it.
    """
    pixels = decode(data)
    top, left, height, width = pixel_box(record, pixels.shape[:2])
    return pixels[top : top + height, left : left + width]


def pixel_box(record: Record, size: tuple[int, ...]) -> Box:
    """The record's box in pixels of an image of `size` (height, width); all of it without one.

    Raises:
        BadImage: the box lies outside of the image, or has hardly a pixel in it.
    """
    height, width = size
    if record.details is None or record.details.box is None:
        return 0, 0, height, width
    sides = record.details.box  # which may stick out of the picture
    if record.details.relative:
        sides = sides[0] * width, sides[1] * height, sides[2] * width, sides[3] * height
    left, top, right, bottom = map(round, sides)
    x, y, end_x, end_y = max(0, left), max(0, top), min(width, right), min(height, bottom)
    if end_x <= x or end_y <= y:
        raise BadImage(
            f"the box x {left} to {right}, y {top} to {bottom} lies "
            f"outside of the picture of {width} x {height} pixels"
        )
    if min(end_x - x, end_y - y) < LEAST_SIDE <= min(width, height):
        raise BadImage(
            f"the box x {left} to {right}, y {top} to {bottom} has only {end_x - x} x {end_y - y} "
            f"pixels of the picture of {width} x {height}"
        )
    return y, x, end_y - y, end_x - x
