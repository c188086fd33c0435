"""The height and width of the network's input."""

from __future__ import annotations

from typing import Any

ImageSize = int | tuple[int, int]
"""Side of a square, or (height, width), in pixels."""

SMALLEST, LARGEST = 16, 4096


def height_width(size: ImageSize) -> tuple[int, int]:
    """(height, width) in pixels."""
    return (size, size) if isinstance(size, int) else size


def size_text(size: ImageSize) -> str:
    """`224`, or `256 x 128` (height x width)."""
    return str(size) if isinstance(size, int) else f"{size[0]} x {size[1]}"


def read_size(value: Any) -> ImageSize:
    """A size from plain values (224, [256, 128]); a ValueError where these are none."""
    sides = list(value) if isinstance(value, (list, tuple)) else [value]
    whole = [_side(side) for side in sides]
    if len(whole) not in (1, 2) or any(side is None for side in whole):
        raise ValueError(
            f"takes the side of a square, or [height, width], in whole pixels from {SMALLEST} to "
            f"{LARGEST}"
        )
    height, width = whole[0], whole[-1]
    assert height is not None
    assert width is not None
    return height if height == width else (height, width)


def _side(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    inside = SMALLEST <= number <= LARGEST  # false for NaN
    return int(number) if inside and number == int(number) else None
