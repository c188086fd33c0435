"""Drawings that make an image set, and the lists that its classes are shared out to."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def _benchmarks():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def unit(*rows):
    rows = np.asarray(rows, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def disc(label, source, box, colour="black"):
    from set_choice import Drawing

    image = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(image).ellipse(box, fill=colour)
    return Drawing(label, source, lambda: image)


def test_of_images_that_are_alike_the_first_stays():
    from set_choice import distinct

    thumbs = unit([1, 0, 0], [1, 0.05, 0], [0, 1, 0], [0.04, 1, 0], [1, 1, 0])
    assert distinct(thumbs, 0.99) == [0, 2, 4]
    assert distinct(thumbs, 0.7) == [0, 2]
    assert distinct(thumbs[:0], 0.99) == []


def test_of_classes_that_share_an_image_the_larger_stays():
    from set_choice import twins

    thumbs = unit([1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0.001, 0], [1, 1, 0], [1, 0, 1], [1, 0, 1])
    labels = ["few", "more", "more", "more", "few", "same-b", "same-a"]
    assert twins(labels, thumbs, 0.999) == {"few", "same-b"}
    assert twins(labels, thumbs, 1.1) == set()


def test_a_class_whose_twin_is_left_out_for_another_stays():
    from set_choice import twins

    thumbs = unit([1, 0], [1, 0], [0, 1], [0, 1])
    assert twins(["a", "b", "b", "c"], thumbs, 0.999) == {"a", "c"}
    assert twins(["a", "a", "a", "b", "b", "c"], unit(*[[1, 0]] * 4, [0, 1], [0, 1]), 0.999) == {
        "b"
    }


def test_blanks_copies_and_classes_of_one_source_are_left_out():
    from set_choice import Drawing, select

    wide, tall, small = (10, 40, 118, 88), (40, 10, 88, 118), (10, 10, 50, 50)
    drawings = [
        disc("kept", "one", wide),
        disc("kept", "two", tall, "red"),
        disc("kept", "three", wide, "blue"),  # the first in another colour
        disc("kept", "four", small, (252, 252, 252)),  # blank
        disc("copies", "one", (20, 20, 100, 100)),
        disc("copies", "two", (20, 20, 100, 101)),
        Drawing("kept", "five", lambda: None),
        disc("one source", "one", (60, 10, 118, 60)),
        disc("one source", "one", (10, 60, 60, 118)),
    ]
    assert [(d.label, d.source) for d, _ in select(drawings)] == [("kept", "one"), ("kept", "two")]
    again = [disc("other", "one", wide), disc("other", "two", small)]
    assert {d.label for d, _ in select([*drawings, *again])} == {"kept"}
    assert {d.label for d, _ in select([*drawings, *again], certain=True)} == {"kept", "other"}
    three = [disc("kept", "five", small), *drawings]
    assert [d.source for d, _ in select(three, most=2)] == ["five", "one"]


def test_no_class_has_two_uses(tmp_path):
    from set_lists import read_list, split_classes, split_test, write_lists

    paths = {f"class {n}": [f"img/{n}/b.png", f"img/{n}/a.png"] for n in range(31)}
    split = split_classes(*split_test(paths, 5), 5)
    assert (len(split.fit), len(split.dev), len(split.test)) == (11, 5, 15)
    assert sorted([*split.fit, *split.dev, *split.test]) == sorted(paths)
    assert split == split_classes(*split_test(reversed(paths), 5), 5)
    assert split != split_classes(*split_test(paths, 6), 6)

    write_lists(tmp_path, paths, split)
    lists = {
        name: read_list(tmp_path / f"{name}.txt")
        for name in ("train", "train_fit", "train_dev", "test")
    }
    labels = {name: {label for _, label in lines} for name, lines in lists.items()}
    assert labels["train"] == {str(n) for n in range(16)}
    assert labels["test"] == {str(n) for n in range(16, 31)}
    assert sorted(lists["train_fit"] + lists["train_dev"]) == sorted(lists["train"])
    assert not labels["train_fit"] & labels["train_dev"]
    assert lists["test"][:2] == [(path, "16") for path in sorted(paths[split.test[0]])]
    assert (tmp_path / "classes.txt").read_text().splitlines()[16] == f"16 test {split.test[0]}"
