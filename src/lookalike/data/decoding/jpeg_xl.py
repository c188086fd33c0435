"""Size and orientation of a JPEG XL image from its header, without decoding it.

ISO/IEC 18181-1, SizeHeader and ImageMetadata; the boxes of a container as in ISO/IEC 18181-2.
"""

from __future__ import annotations

from typing import NamedTuple

_SIGNATURE = b"\xff\x0a"
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_BITS = (9, 13, 18, 30)


class Header(NamedTuple):
    """Size and orientation of a JPEG XL image.

    Attributes:
        size: height and width of the pixels as they are stored.
        orientation: applied by decoders; as in EXIF, 1 to 8.
    """

    size: tuple[int, int]
    orientation: int


def header(data: bytes) -> Header | None:
    """The header of a file's content; None where there is none."""
    start = 0 if data.startswith(_SIGNATURE) else _codestream(data)
    if start is None or not data.startswith(_SIGNATURE, start):
        return None
    bits = _Bits(data[start + 2 : start + 16])
    small = bits.take(1)
    height = _side(bits, small)
    ratio = bits.take(3)
    if ratio:
        over, under = _RATIOS[ratio]
        width = height * over // under
    else:
        width = _side(bits, small)
    all_default = bits.take(1)
    extra_fields = 0 if all_default else bits.take(1)
    return Header((height, width), bits.take(3) + 1 if extra_fields else 1)


def _side(bits: _Bits, small: int) -> int:
    return 8 * (bits.take(5) + 1) if small else bits.take(_BITS[bits.take(2)]) + 1


def _codestream(data: bytes) -> int | None:
    """The start of the codestream in a container."""
    position = 0
    while position + 8 <= len(data):
        length, kind, head = int.from_bytes(data[position : position + 4]), position + 4, 8
        if length == 1:
            length, head = int.from_bytes(data[position + 8 : position + 16]), 16
        name = data[kind : kind + 4]
        if name in (b"jxlc", b"jxlp"):
            return position + head + (4 if name == b"jxlp" else 0)
        if length < head:
            return None
        position += length
    return None


class _Bits:
    """Bits of bytes, the lowest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        value = self._value & ((1 << count) - 1)
        self._value >>= count
        return value
