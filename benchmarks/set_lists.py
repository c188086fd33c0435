"""Lists of a set: classes shared out to training, tuning and test."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Split:
    """Classes by use. No class is in two of `fit`, `dev` and `test`."""

    fit: list[str]
    dev: list[str]
    test: list[str]

    @property
    def train(self) -> list[str]:
        return sorted([*self.fit, *self.dev])


def split_test(labels: Iterable[str], seed: int = 0) -> tuple[list[str], list[str]]:
    """Half of the classes to train and the others to test on, drawn from their sorted names."""
    names = sorted(set(labels))
    random.Random(str(seed)).shuffle(names)
    half = (len(names) + 1) // 2
    return sorted(names[:half]), sorted(names[half:])


def split_classes(train: Iterable[str], test: Iterable[str], seed: int = 0) -> Split:
    """A third of the training classes is set apart to choose settings on."""
    names = sorted(set(train))
    random.Random(str(seed)).shuffle(names)
    third = len(names) // 3
    return Split(fit=sorted(names[third:]), dev=sorted(names[:third]), test=sorted(set(test)))


def write_lists(folder: Path, paths: Mapping[str, Sequence[str]], split: Split) -> None:
    """The lists of a set, its classes numbered from those of `train.txt` on."""
    numbers = {label: number for number, label in enumerate([*split.train, *split.test])}
    for name, labels in (
        ("train", split.train),
        ("train_fit", split.fit),
        ("train_dev", split.dev),
        ("test", split.test),
    ):
        lines = [f"{path} {numbers[label]}\n" for label in labels for path in sorted(paths[label])]
        (folder / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    parts = {**dict.fromkeys(split.train, "train"), **dict.fromkeys(split.test, "test")}
    lines = [f"{number} {parts[label]} {label}\n" for label, number in numbers.items()]
    (folder / "classes.txt").write_text("".join(lines), encoding="utf-8")


def read_list(path: Path) -> list[tuple[str, str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(image, label) for image, label in (line.rsplit(maxsplit=1) for line in lines)]
