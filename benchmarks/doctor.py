"""Recall of `lookalike doctor` on planted faults, and its speed.

    python benchmarks/doctor.py            # all parts, some five minutes on two cores
    python benchmarks/doctor.py --parts faults photographs

faults        emoji, with copies, leaks, contradictions, broken and misnamed files among them
photographs   pieces of photographs, with copies among them
labels        emoji with swapped labels: trained on for a short time, then `--run`
speed         a list of a million lines; a million hashes; images against decoding alone

Recall: planted faults that are named. Precision: of the groups or images that are named, those that
were planted, so that what was wrong with the set before counts against it; how many of the others
were named in the set before anything was planted stands beside it.
"""

from __future__ import annotations

import argparse
import logging
import random
import shutil
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import lookalike
from lookalike.commands.quickstart import REQUEST, unpack_weights
from lookalike.data.decoding.decode import decode
from lookalike.data.loading.image_source import Source
from lookalike.data.loading.pipeline import Job, pipeline
from lookalike.data.record import Record
from lookalike.inspection.duplicates import near_pairs
from lookalike.inspection.image_facts import read_image_facts
from lookalike.inspection.issue import Diagnosis
from set_lists import read_list

PARTS = ("faults", "photographs", "labels", "speed")
COUNTS = {"exact": 40, "near": 80}
BROKEN = {"truncated": 25, "empty": 10, "web page": 5}
MISNAMED = 40


class Set:
    """Lists that can be written, and what was planted in them."""

    def __init__(
        self, folder: Path, lists: dict[str, list[tuple[str, str]]], seed: int = 0
    ) -> None:
        self.folder, self.lists = folder, lists
        self.dice = random.Random(seed)
        self.planted: dict[str, list[set[str]]] = {}
        self.unused = {name: self.dice.sample(lines, len(lines)) for name, lines in lists.items()}
        self.made = 0

    def copy(self, path: str, how: str) -> str:
        """Another file of the same picture: byte by byte, or scaled and encoded anew."""
        self.made += 1
        new = f"planted/{self.made}.jpg"
        (self.folder / "planted").mkdir(exist_ok=True)
        if how == "exact":
            shutil.copy(self.folder / path, self.folder / new)
            return new
        image = Image.open(self.folder / path).convert("RGB")
        scale = self.dice.uniform(0.5, 1.5)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        kind = self.dice.choice([Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
        image.resize(size, kind).save(self.folder / new, quality=self.dice.randint(50, 95))
        return new

    def plant_copies(self, kind: str, how: str, target: str, *, same_label: bool) -> None:
        labels = sorted({label for _, label in self.lists[target]})
        for _ in range(COUNTS[how]):
            path, label = self.unused["train"].pop()
            new = self.copy(path, how)
            other = label if same_label else self.dice.choice([x for x in labels if x != label])
            self.lists[target].append((new, other))
            self.planted.setdefault(f"{kind}_{how}", []).append({path, new})

    def damage(self) -> None:
        """Break some files, and write others in a format that their name does not say."""
        for what, count in BROKEN.items():
            for _ in range(count):
                path, _ = self.unused["train"].pop()
                file = self.folder / path
                data = file.read_bytes()
                keep = int(len(data) * self.dice.uniform(0.3, 0.9))
                parts = {"truncated": data[:keep], "empty": b"", "web page": b"<html>404</html>"}
                file.write_bytes(parts[what])
                self.planted.setdefault("unreadable", []).append({path})
        for number in range(MISNAMED):
            path, _ = self.unused["train"].pop()
            image = Image.open(self.folder / path).convert("RGB")
            image.save(self.folder / path, ("PNG", "WEBP", "GIF", "BMP")[number % 4])
            self.planted.setdefault("wrong_extension", []).append({path})

    def write(self) -> dict[str, str]:
        paths = {}
        for name, lines in self.lists.items():
            paths[name] = str(self.folder / f"{name}.list.txt")
            Path(paths[name]).write_text("".join(f"{path} {label}\n" for path, label in lines))
        return paths


def named(found: Diagnosis, kind: str, folder: Path) -> list[set[str]]:
    records = found.lists.records
    return [
        {records[row].uri.removeprefix(f"{folder}/") for row in group.rows}
        for finding in found.issues
        if finding.kind == kind
        for group in finding.groups
    ]


Groups = list[set[str]]


def tell(kind: str, planted: Groups, groups: Groups, before: Groups) -> None:
    hit = sum(any(pair <= group for group in groups) for pair in planted)
    right = sum(any(pair <= group for pair in planted) for group in groups)
    others = [group for group in groups if not any(pair <= group for pair in planted)]
    old = sum(any(group & was for was in before) for group in others)
    print(
        f"{kind:18} planted {len(planted):4}  recall {hit / len(planted):7.1%}  named "
        f"{len(groups):4}  precision {right / max(1, len(groups)):7.1%}  "
        f"not planted {len(others):3}, of these in the set before {old:3}"
    )


def faults(folder: Path, emoji: Path) -> None:
    print("\nfaults planted in emoji (5,049 + 4,691 images of 72 pixels)")
    folder = folder / "faults"
    shutil.copytree(emoji, folder)
    data = Set(folder, {name: read_list(folder / f"{name}.txt") for name in ("train", "test")})
    clean = data.write()
    before = lookalike.doctor(train=clean["train"], val=clean["test"], threads=2)
    for how in COUNTS:
        data.plant_copies("duplicates", how, "train", same_label=True)
        data.plant_copies("two_labels", how, "train", same_label=False)
        data.plant_copies("leakage", how, "test", same_label=False)
    data.damage()
    paths = data.write()
    after = lookalike.doctor(train=paths["train"], val=paths["test"], threads=2)
    for kind, planted in data.planted.items():
        tell(kind, planted, named(after, kind, folder), named(before, kind, folder))


def photographs(folder: Path) -> None:
    from photographs import photographs as shipped

    folder = folder / "pieces"
    folder.mkdir()
    lines = []
    for number, photo in enumerate(shipped()):
        width, height = photo.size
        for x in range(3):
            for y in range(3):
                box = (x * width // 3, y * height // 3, (x + 1) * width // 3, (y + 1) * height // 3)
                name = f"{number}-{x}{y}.jpg"
                photo.crop(box).save(folder / name, quality=92)
                lines.append((name, str(len(lines))))
    print(f"\ncopies of {len(lines)} pieces of photographs, of about 170 pixels")
    data = Set(folder, {"train": [*lines]})
    before = lookalike.doctor(train=data.write()["train"], threads=2)
    while data.unused["train"]:
        path, label = data.unused["train"].pop()
        new = data.copy(path, "near")
        data.lists["train"].append((new, label))
        data.planted.setdefault("duplicates_near", []).append({path, new})
    after = lookalike.doctor(train=data.write()["train"], threads=2)
    kind = "duplicates_near"
    tell(kind, data.planted[kind], named(after, kind, folder), named(before, kind, folder))


def labels(folder: Path, emoji: Path, classes: int, epochs: int) -> None:
    """Swap labels, train on them for a short time, and ask the model."""
    dice = random.Random(1)
    lines = read_list(emoji / "train.txt")
    kept = dice.sample(sorted({label for _, label in lines}), classes)
    lines = [line for line in lines if line[1] in set(kept)]
    swapped = set()
    order = dice.sample(range(len(lines)), max(4, len(lines) // 40) // 2 * 2)
    for a, b in zip(order[::2], order[1::2], strict=True):
        (one, left), (two, right) = lines[a], lines[b]
        if left != right:
            lines[a], lines[b] = (one, right), (two, left)
            swapped |= {one, two}
    listed = emoji / "swapped.txt"
    listed.write_text("".join(f"{path} {label}\n" for path, label in lines))
    print(f"\nlabels: {len(swapped)} of {len(lines):,} images of {classes} classes swapped; "
          f"trained for {epochs} epochs")  # fmt: skip
    settings = {
        **REQUEST,
        "model.pretrained": str(unpack_weights(folder)),
        "data.train": str(listed),
        "run.output": str(folder / "run"),
        "train.epochs": epochs,
    }
    began = time.monotonic()
    run = lookalike.train(lookalike.Config().with_values(settings))
    trained = time.monotonic() - began
    found = lookalike.doctor(run=run.path, images=False, threads=2)
    groups = [next(iter(group)) for group in named(found, "suspect_labels", emoji)]
    hits = np.array([path in swapped for path in groups])
    for count in (len(swapped) // 2, len(swapped), 2 * len(swapped), len(groups)):
        top = hits[:count].sum()
        print(f"  first {count:4} of the ranking: recall {top / len(swapped):6.1%}  "
              f"precision {top / max(1, min(count, len(groups))):6.1%}")  # fmt: skip
    share = len(swapped) / len(lines)
    print(f"  share of the images that were swapped: {share:.1%}; training took {trained:.0f} s")


def _decoding(record: Record) -> Job[int]:
    return Job([None], lambda: (lambda *_: decode(Path(record.uri).read_bytes()), lambda: 1))


def speed(folder: Path, emoji: Path) -> None:
    from photographs import SIZES, write_photographs

    print("\nspeed")
    big = folder / "million.txt"
    with big.open("w") as stream:
        for i in range(1_000_000):
            stream.write(f"photos/{i % 1000:03d}/{i:08d}.jpg product-{i // 10}\n")
    began = time.monotonic()
    lookalike.doctor(train=str(big), images=False)
    print(f"a list of 1,000,000 lines, --no-images: {time.monotonic() - began:.1f} s")
    hashes = np.random.default_rng(0).integers(0, 1 << 63, 1_000_000, np.uint64) << np.uint64(1)
    hashes[500_000:500_100] = hashes[:100] ^ np.uint64(0b111)
    began = time.monotonic()
    pairs = sum(len(left) for left, _ in near_pairs(hashes))
    print(f"a million hashes, all pairs within 6 bits: {time.monotonic() - began:.1f} s ({pairs})")
    sets = {"emoji of 72 px": [Path(emoji, path) for path, _ in read_list(emoji / "train.txt")]}
    for name, size in SIZES.items():
        place = folder / name
        place.mkdir()
        sets[f"photographs of {name}"] = write_photographs(place, size, 240)
    for name, files in sets.items():
        records = [Record(str(file), "0", "x", 1) for file in files]
        rates: dict[str, list[float]] = {"doctor": [], "decode": []}
        for _ in range(3):
            rates["doctor"].append(len(records) / read_image_facts(
                records, range(len(records)), source=Source(threads=2), quiet=True
            ).seconds)  # fmt: skip
            began = time.monotonic()
            done = sum(pipeline(map(_decoding, records), source=Source(threads=2), ahead=64))
            rates["decode"].append(done / (time.monotonic() - began))
        ours, alone = (float(np.median(rates[key])) for key in ("doctor", "decode"))
        print(
            f"{name}: doctor {ours:,.0f} images/s, decoding alone {alone:,.0f}: {ours / alone:.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    shared = Path(__file__).parents[2] / "shared/data/emoji.tar"
    parser.add_argument("--emoji", type=Path, default=shared, help="the tar file of the images")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--classes", type=int, default=160, help="with swapped labels")
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args()
    logging.getLogger("lookalike").addHandler(logging.NullHandler())  # quiet: this prints its own
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with tarfile.open(options.emoji) as archive:
            archive.extractall(folder, filter="data")
        emoji = folder / "emoji"
        if "faults" in options.parts:
            faults(folder, emoji)
        if "photographs" in options.parts:
            photographs(folder)
        if "labels" in options.parts:
            labels(folder, emoji, options.classes, options.epochs)
        if "speed" in options.parts:
            speed(folder, emoji)


if __name__ == "__main__":
    main()
