"""Sets whose objects are not aligned, made of those that `quality_sets.py` drew.

    python benchmarks/set_moved.py FOLDER

SET_placed   an image pasted at 0.4 to 0.9 of the side, anywhere on a photograph
SET_near     the same at 0.65 to 1 of the side
glyphs_bent  letters turned by up to 12 degrees, sheared, reduced by up to a quarter, shifted by up
             to a tenth and bent, as handwriting differs
glyphs_bent2 the same by twice as much

Each has `train_fit.txt` and `train_dev.txt`, the lists on which settings are chosen. The
photographs are those of scikit-image, of which the package is fetched.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from set_packages import Packages, pypi

SIDE = 160
LISTS = ("train_fit.txt", "train_dev.txt")
PHOTOGRAPHS = pypi("scikit-image", "0.26.0", "BSD-3-Clause; the photographs: see its data/README")
NAMES = (
    "astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png", "coins.png",
    "ihc.png", "retina.jpg", "hubble_deep_field.jpg", "grass.png", "gravel.png", "brick.png",
)  # fmt: skip

_GRID = 4  # cells a side, whose inner corners move

Move = Callable[[Image.Image], Image.Image]


def placed(photographs: Path, least: float, most: float) -> Move:
    """Paste at `least` to `most` of the side, at random, on a random part of a photograph."""
    backgrounds = [Image.open(photographs / name).convert("RGB") for name in NAMES]
    rng = random.Random(0)

    def move(image: Image.Image) -> Image.Image:
        side = max(8, int(SIDE * rng.uniform(least, most)))
        scale = side / max(image.size)
        width, height = (max(1, int(length * scale)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
        background = rng.choice(backgrounds)
        part = rng.randint(min(120, min(background.size)), min(background.size))
        left = rng.randint(0, background.width - part)
        top = rng.randint(0, background.height - part)
        found = background.crop((left, top, left + part, top + part))
        found = found.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        place = rng.randint(0, SIDE - width), rng.randint(0, SIDE - height)
        found.paste(image, place, image)
        return found

    return move


def bent(strength: float) -> Move:
    """Turn, shear, reduce and shift on white, then bend by a grid of random corners."""
    rng, corners = random.Random(0), np.random.default_rng(0)

    def move(image: Image.Image) -> Image.Image:
        page = Image.new("RGBA", image.size, "white")
        page.alpha_composite(image)
        width, height = image.size
        angle = np.deg2rad(rng.uniform(-12, 12) * strength)
        enlarged = 1 / rng.uniform(1 - 0.25 * strength, 1)
        shear = rng.uniform(-0.15, 0.15) * strength
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = turn @ np.array([[1, shear], [0, 1]]) * enlarged
        shift = np.array([rng.uniform(-0.1, 0.1) * strength * side for side in image.size])
        centre = np.array([width / 2, height / 2])
        offset = centre - matrix @ (centre + shift)
        rows = np.concatenate([matrix, offset[:, None]], 1).ravel().tolist()
        affine, mesh = Image.Transform.AFFINE, Image.Transform.MESH
        how = {"resample": Image.Resampling.BILINEAR, "fillcolor": "white"}
        found = page.convert("RGB").transform(image.size, affine, rows, **how)
        return found.transform(image.size, mesh, _mesh(width, height, strength, corners), **how)

    return move


def _mesh(width: int, height: int, strength: float, corners: np.random.Generator) -> list:
    """Cells of the grid, and the corners of the parts that fill them."""
    steps = np.linspace(0, width, _GRID + 1), np.linspace(0, height, _GRID + 1)
    points = np.stack(np.meshgrid(*steps), -1)
    points[1:-1, 1:-1] += corners.normal(0, 0.03 * strength * width, (_GRID - 1, _GRID - 1, 2))
    columns, rows = (step.astype(int).tolist() for step in steps)
    found = []
    for i in range(_GRID):
        for j in range(_GRID):
            cell = (columns[j], rows[i], columns[j + 1], rows[i + 1])
            quad = points[[i, i + 1, i + 1, i], [j, j, j + 1, j + 1]]
            found.append((cell, tuple(quad.ravel().tolist())))
    return found


def write(source: Path, target: Path, move: Move, suffix: str) -> None:
    """Move the images of the lists of `source`."""
    for name in LISTS:
        lines = []
        for line in (source / name).read_text(encoding="utf-8").splitlines():
            path, label = line.rsplit(" ", 1)
            place = (target / path).with_suffix(suffix)
            place.parent.mkdir(parents=True, exist_ok=True)
            move(Image.open(source / path).convert("RGBA")).save(place, quality=92)
            lines.append(f"{place.relative_to(target)} {label}\n")
        (target / name).write_text("".join(lines), encoding="utf-8")


def main(folder: Path) -> None:
    photographs = Packages(folder / "packages").path(PHOTOGRAPHS) / "skimage" / "data"
    for name in ("logos", "flags"):
        for kind, least, most in (("placed", 0.4, 0.9), ("near", 0.65, 1.0)):
            move = placed(photographs, least, most)
            write(folder / name, folder / f"{name}_{kind}", move, ".jpg")
    write(folder / "glyphs", folder / "glyphs_bent", bent(1), ".png")
    write(folder / "glyphs", folder / "glyphs_bent2", bent(2), ".png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
