"""Sets of photographs, made of clones of public repositories that hold them.

    git clone REPOSITORY CLONE  # for each
    python benchmarks/set_photographs.py FOLDER --birds CLONE --caltech CLONE --imagenet CLONE

birds      525 species, five photographs of each: github Sparcraps/Gob-Game-of-Bird
caltech    Caltech-101, kinds of things: github MachineLearning2020/Homework2-Caltech101; without
           its background, and with one of its two sets of faces
imagenet   mini-ImageNet at 84 x 84: github Deo0330/split_minidataset; for random weights alone, as
           pretrained networks know its classes

A class has at most 60 images (`imagenet`: 40), drawn at random, with a shorter side of 256 pixels
at most. The lists are those of `quality_sets.py`.
"""

from __future__ import annotations

import argparse
import random
import shutil
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from quality_sets import SEED, finish
from set_lists import split_classes, split_test, write_lists

SIDE = 256
MOST = {"birds": 60, "caltech": 60, "imagenet": 40}  # images a class
FOLDERS = {
    "birds": ("valid",),
    "caltech": ("101_ObjectCategories",),
    "imagenet": ("train", "val", "test"),
}
LEFT_OUT = {"BACKGROUND_Google", "Faces_easy"}


def photographs(clone: Path, folders: Iterable[str]) -> dict[str, list[Path]]:
    """Files by class, which is the folder that holds them."""
    found: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        for path in sorted((clone / folder).rglob("*.jp*g")):
            if path.parent.name not in LEFT_OUT:
                found[path.parent.name].append(path)
    return dict(found)


def build(name: str, clone: Path, folder: Path) -> None:
    rng = random.Random(SEED)
    half = folder.with_name(folder.name + ".part")
    shutil.rmtree(half, ignore_errors=True)
    paths: dict[str, list[str]] = {}
    for label, files in sorted(photographs(clone, FOLDERS[name]).items()):
        drawn = rng.sample(files, min(MOST[name], len(files)))
        place = Path("img") / label.replace(" ", "_")
        (half / place).mkdir(parents=True)
        paths[label] = [(place / f"{number}.jpg").as_posix() for number in range(len(drawn))]
        for path, target in zip(drawn, paths[label], strict=True):
            with Image.open(path) as image:
                image = image.convert("RGB")
            scale = SIDE / min(image.size)
            if scale < 1:
                size = tuple(round(scale * length) for length in image.size)
                image = image.resize(size, Image.Resampling.LANCZOS)
            image.save(half / target, quality=92)
    write_lists(half, paths, split_classes(*split_test(paths, SEED), SEED))
    finish(half)
    half.rename(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="outside of the repository")
    for name in FOLDERS:
        parser.add_argument(f"--{name}", type=Path, help="clone of its repository")
    options = parser.parse_args()
    for name in FOLDERS:
        clone, folder = getattr(options, name), options.folder / name
        if clone is None:
            print(f"{name}: left out, as --{name} names no clone")
        elif not folder.exists():
            build(name, clone, folder)


if __name__ == "__main__":
    main()
