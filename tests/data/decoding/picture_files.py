"""Image files of every kind, made from the same smooth random picture."""

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from lookalike.data.catalog import Catalog, Classes, Record


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth picture with some noise, (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noise = rng.integers(-8, 9, smooth.shape)
    return np.clip(smooth.astype(int) + noise, 0, 255).astype(np.uint8)


def encode(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    """The content of a file of that PIL format."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int, order: str = "<", kind: int = 3) -> bytes:
    """An APP1 content with one other tag and the orientation."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    value = struct.pack(order + {1: "Bxxx", 3: "Hxx", 4: "I"}[kind], orientation)
    entries = struct.pack(order + "HHI4s", 0x010F, 2, 2, b"A\0\0\0")
    entries += struct.pack(order + "HHI", 0x0112, kind, 1) + value
    return b"Exif\0\0" + head + struct.pack(order + "IH", 8, 2) + entries + struct.pack("I", 0)


def write_catalog(folder: Path, num: int, *, broken: tuple[int, ...] = ()) -> Catalog:
    """A catalog of `num` small JPEG files of different sizes; the files of `broken` hold text."""
    records = []
    for row in range(num):
        path = folder / f"{row}.jpg"
        height, width = 40 + 3 * (row % 7), 40 + 5 * (row % 5)
        content = encode(picture(height, width, row), "JPEG", quality=90)
        path.write_bytes(b"<html>404" if row in broken else content)
        records.append(Record(str(path), str(row % 3), "train.txt", row + 1))
    ids = np.array([row % 3 for row in range(num)], dtype=np.int64)
    return Catalog(tuple(records), ids, Classes(("0", "1", "2")))
