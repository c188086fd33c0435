"""JPEGs whose end is missing: where they are accepted, they get an end."""

from __future__ import annotations

_END = b"\xff\xd9"
_STANDALONE = frozenset([0x01, *range(0xD0, 0xD9)])  # markers without a length


def completed(data: bytes) -> bytes:
    """`data` with an end, if it is a JPEG whose end is missing; else as it is.

    libjpeg fills what is missing in grey, or as coarse as a progressive JPEG came.

    The end comes twice: of such a file decoders for parts of a picture see that it is not as it
    should be, and leave it to the one that decodes the whole, whose pixels are always the same.
    """
    scan = _scan_start(data)
    if scan is None or data.find(_END, scan) >= 0:
        return data
    return data.removesuffix(b"\xff") + _END + _END


def _scan_start(data: bytes) -> int | None:
    """Where the first scan of a JPEG begins; None where there is none."""
    if data[:2] != b"\xff\xd8":
        return None
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # filling
            position += 1
            continue
        if marker in _STANDALONE:
            position += 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        position += 2 + length
        if marker == 0xDA:
            return position if position < len(data) else None
    return None
