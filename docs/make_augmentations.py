"""Writes docs/augmentations.jpg: what each name of data.augment does to a picture.

python docs/make_augmentations.py                      of a drawing that the package brings
python docs/make_augmentations.py photo.jpg sheet.jpg  of your own
"""

import random
import sys
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from lookalike.data.augmentations import AUGMENTATIONS
from lookalike.data.decoding.decode import decode
from lookalike.data.decoding.resize import resize

SHEET = Path(__file__).with_name("augmentations.jpg")
ROOT = Path(__file__).parents[1]
SIDE, COLUMNS, MARGIN = 72, 6, 120
MEAN = (0.485, 0.456, 0.406)


def drawing() -> bytes:
    """The tiger of Noto Emoji (Google, Apache-2.0)."""
    with tarfile.open(ROOT / "src/lookalike/quickstart_data/emoji.tar") as archive:
        name = "img/tiger_1f42f/noto.jpg"
        file = archive.extractfile(name)
        assert file is not None
        return file.read()


def sheet(data: bytes) -> Image.Image:
    """A row for each augmentation, with the strengths that it draws."""
    picture = resize(decode(data), SIDE, SIDE, "bilinear")
    height = SIDE + 4
    canvas = Image.new("RGB", (MARGIN + COLUMNS * height, len(AUGMENTATIONS) * height), "white")
    pen = ImageDraw.Draw(canvas)
    for row, (name, kind) in enumerate(AUGMENTATIONS.items()):
        pen.text((4, row * height + SIDE // 2 - 6), name, fill="black", font_size=13)
        augmentation, dice = kind(p=1.0).fitted(SIDE, MEAN), random.Random(row)
        for column in range(COLUMNS):
            changed = augmentation(picture, dice) if column else picture
            pixels = np.ascontiguousarray(torch.as_tensor(changed).permute(1, 2, 0).numpy())
            canvas.paste(Image.fromarray(pixels), (MARGIN + column * height, row * height))
    return canvas


def main(source: str | None = None, target: str | None = None) -> None:
    """Write the sheet."""
    data = Path(source).read_bytes() if source else drawing()
    sheet(data).save(target or SHEET, quality=70, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
