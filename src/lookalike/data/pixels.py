"""The picture of a record: decoded, and cut to its box."""

from __future__ import annotations

import numpy as np

from lookalike.data.decode import BadImage, decode
from lookalike.data.record import Record


def picture(record: Record, data: bytes) -> np.ndarray:
    """The record's picture in `data`, (H, W, 3) uint8; a view of a larger one if it has a box.

    Raises:
        BadImage: it cannot be decoded, or the box lies outside of it.
    """
    pixels = decode(data)
    if record.details is None or record.details.box is None:
        return pixels
    height, width, _ = pixels.shape
    left, top, right, bottom = record.details.box
    cut = pixels[max(0, top) : bottom, max(0, left) : right]
    if not cut.size:
        raise BadImage(
            f"the box x {left} to {right}, y {top} to {bottom} lies outside of the picture of "
            f"{width} x {height} pixels"
        )
    return cut
