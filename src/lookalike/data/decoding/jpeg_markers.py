"""The segments of a JPEG file before its first scan, and the end that a truncated one lacks."""

from __future__ import annotations

from collections.abc import Iterator

_END = b"\xff\xd9"
_WITHOUT_LENGTH = frozenset([0x01, *range(0xD0, 0xD9)])


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of the content of each segment, the header of the first scan last."""
    if data[:2] != b"\xff\xd8":
        return
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker in _WITHOUT_LENGTH:
            position += 2
        elif marker == 0xD9:
            return
        else:
            length = int.from_bytes(data[position + 2 : position + 4], "big")
            yield marker, position + 4, position + 2 + length
            if marker == 0xDA:
                return
            position += 2 + length


def completed(data: bytes) -> bytes:
    """`data` with an end, if it is a JPEG whose end is missing; else as it is.

    libjpeg fills what is missing in grey, or as coarse as a progressive JPEG came.

    The end comes twice: `partial_jpeg` then leaves the file to the decoder of the whole, whose
    pixels do not depend on the crop.
    """
    scan = next((end for marker, _, end in segments(data) if marker == 0xDA), len(data))
    if scan >= len(data) or data.find(_END, scan) >= 0:
        return data
    return data.removesuffix(b"\xff") + _END + _END
