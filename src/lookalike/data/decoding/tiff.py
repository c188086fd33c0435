"""TIFF files that PIL does not read: floating-point pixels, and descriptions of the rest.

White is 1 in floating-point pixels from 0 to 1, as PIL's 32-bit grey is read; for other ranges, and
channels other than grey or red, green and blue, colours are not defined.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # byte, short, long, long8
_MOST_VALUES = 1 << 22
_DNG_VERSION, _SUB_IFDS, _NEW_SUBFILE = 50706, 330, 254
_UNCOMPRESSED, _DEFLATE = (1,), (8, 32946)
_FLOAT = 3  # sample format


class NotReadable(Exception):
    """The reason why a TIFF file cannot be used, with the fix."""


@dataclass(frozen=True)
class Tiff:
    """The first directory of a TIFF file.

    Attributes:
        order: `<` or `>`.
        tags: numbers by tag; only those whose values are unsigned integers.
    """

    order: str
    tags: dict[int, tuple[int, ...]]

    @classmethod
    def of(cls, data: bytes) -> Tiff | None:
        """The directory of a file's content; None where it is damaged."""
        order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
        if order is None:
            return None
        try:
            (start,) = struct.unpack_from(order + "I", data, 4)
            (count,) = struct.unpack_from(order + "H", data, start)
            tags = {}
            for entry in range(start + 2, start + 2 + 12 * count, 12):
                tag, kind, number = struct.unpack_from(order + "HHI", data, entry)
                if kind in _TYPES and 0 < number <= _MOST_VALUES:
                    form = f"{order}{number}{_TYPES[kind]}"
                    place = entry + 8
                    if struct.calcsize(form) > 4:
                        (place,) = struct.unpack_from(order + "I", data, place)
                    tags[tag] = struct.unpack_from(form, data, place)
        except struct.error:
            return None
        return cls(order, tags)

    def number(self, tag: int, default: int) -> int:
        """The first value of a tag."""
        return self.tags.get(tag, (default,))[0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.number(257, 0), self.number(256, 0)

    @property
    def channels(self) -> int:
        return self.number(277, 1)

    @property
    def bits(self) -> int:
        return self.number(258, 1)

    @property
    def orientation(self) -> int:
        """As EXIF counts it, 1 to 8."""
        value = self.number(274, 1)
        return value if 1 <= value <= 8 else 1

    @property
    def is_float(self) -> bool:
        """True if samples are floating-point numbers."""
        return self.number(339, 1) == _FLOAT

    @property
    def is_float_of_pil(self) -> bool:
        """True if PIL reads these floating-point samples; it swaps compressed bytes twice."""
        return self.order == "<" and self.bits == 32 and self.channels == 1

    @property
    def is_raw(self) -> bool:
        """True for a camera's raw file, whose first image is a thumbnail."""
        return _DNG_VERSION in self.tags or (
            bool(self.number(_NEW_SUBFILE, 0) & 1) and _SUB_IFDS in self.tags
        )

    def describe(self) -> str:
        """`TIFF of 5 channels of 8 bits`, to follow the article "a"."""
        channels = "1 channel" if self.channels == 1 else f"{self.channels} channels"
        form = "floating-point bits" if self.is_float else "bits"
        return f"TIFF of {channels} of {self.bits} {form}"


def float_pixels(data: bytes, tiff: Tiff) -> np.ndarray:
    """The floating-point samples of a TIFF that PIL refuses, (H, W, 1 or 3) float32.

    Uncompressed and deflated strips of whole pixels are read.

    Raises:
        NotReadable: it holds other pixels, or is damaged.
    """
    if tiff.channels not in (1, 3):
        raise NotReadable(
            f"a {tiff.describe()}, of which it is not defined which are red, green and blue; "
            "write those three as an RGB image"
        )
    compression, predictor = tiff.number(259, 1), tiff.number(317, 1)
    if (
        not tiff.is_float
        or tiff.bits not in (16, 32, 64)
        or compression not in (*_UNCOMPRESSED, *_DEFLATE)
        or predictor != 1
        or (tiff.channels > 1 and tiff.number(284, 1) != 1)
        or 273 not in tiff.tags
        or 279 not in tiff.tags
    ):
        raise NotReadable(
            f"a {tiff.describe()} (compression {compression}), which is not read; write 8 or 16 "
            "bits"
        )
    height, width = tiff.size
    kind = np.dtype(f"{tiff.order}f{tiff.bits // 8}")
    row = width * tiff.channels * kind.itemsize
    rows = min(tiff.number(278, height), height)
    parts = []
    for number, (offset, size) in enumerate(zip(tiff.tags[273], tiff.tags[279], strict=False)):
        most = row * min(rows, height - rows * number)
        if most <= 0:
            break
        part = data[offset : offset + size]
        if compression in _DEFLATE:
            try:
                part = zlib.decompressobj().decompress(part, most)
            except zlib.error:
                raise NotReadable("damaged") from None
        parts.append(part[:most])
    content = b"".join(parts)
    if len(content) != row * height:
        raise NotReadable("truncated")
    pixels = np.frombuffer(content, kind).reshape(height, width, tiff.channels)
    return pixels.astype(np.float32)
