"""Photographs that packages ship, as JPEG files of about 0.2 and 1.5 megapixels."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from requirements import require

require("skimage")
from skimage import data

QUALITIES = (75, 85, 95)
SIZES = {"0.2 MP": (375, 500), "1.5 MP": (1080, 1440)}  # height, width


def photographs() -> list[Image.Image]:
    """Photographs in colour as they come."""
    found = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    found += [data.immunohistochemistry(), *load_sample_images().images]
    return [Image.fromarray(np.asarray(pixels)) for pixels in found]


def write_photographs(folder: Path, size: tuple[int, int], count: int) -> list[Path]:
    """`count` JPEG files of `size`, with the detail that a camera's have.

    Nothing is enlarged, as that would leave less to decode a pixel: a picture is a mosaic of
    pieces of the photographs, each at most as large as it was.
    """
    dice, photos = random.Random(0), photographs()
    height, width = size
    rows = cols = 1 if height <= 375 else 3
    paths = []
    for number in range(count):
        canvas = Image.new("RGB", (width, height))
        for row in range(rows):
            for col in range(cols):
                photo = dice.choice(photos)
                piece = (width // cols, height // rows)
                scale = max(piece[0] / photo.width, piece[1] / photo.height)
                if scale < 1:
                    keep = dice.uniform(scale, 1)
                    photo = photo.resize((round(photo.width * keep), round(photo.height * keep)))
                left = dice.randrange(max(1, photo.width - piece[0] + 1))
                top = dice.randrange(max(1, photo.height - piece[1] + 1))
                part = photo.crop((left, top, left + piece[0], top + piece[1]))
                canvas.paste(part, (col * piece[0], row * piece[1]))
        path = folder / f"{number:05d}.jpg"
        canvas.save(path, quality=QUALITIES[number % len(QUALITIES)])
        paths.append(path)
    return paths
