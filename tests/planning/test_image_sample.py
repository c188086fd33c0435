"""Facts about a sample of images."""

from functools import partial

import numpy as np
import pytest
from PIL import Image

from lookalike.data.catalog import open_catalog
from lookalike.planning.image_sample import recalls, sample_facts


def pictures(folder, *, symmetric, classes=40, views=2, side=50):
    """A list of noisy random patterns, each mirrored onto itself where `symmetric`."""
    rng = np.random.default_rng(3)
    lines = []
    for klass in range(classes):
        pattern = rng.integers(0, 256, (8, 8, 3))
        if symmetric:
            pattern = (pattern + pattern[:, ::-1]) // 2
        for view in range(views):
            noisy = (pattern + rng.integers(-20, 20, pattern.shape)).clip(0, 255).astype(np.uint8)
            image = Image.fromarray(noisy).resize((side + 10, side), Image.Resampling.NEAREST)
            image.save(folder / f"{klass}-{view}.png")
            lines.append(f"{klass}-{view}.png {klass}\n")
    (folder / "list.txt").write_text("".join(lines))
    return open_catalog(str(folder / "list.txt"))


@pytest.mark.parametrize("symmetric", [True, False])
def test_mirror_images_differ_where_patterns_are_not_symmetric(tmp_path, symmetric):
    found = sample_facts(pictures(tmp_path, symmetric=symmetric))
    assert (found.side, found.images, found.queries) == (50, 80, 80)
    assert found.recall == 1
    assert found.mirrors_differ is not symmetric
    assert found.mirrored_recall == pytest.approx(1.0) if symmetric else found.mirrored_recall < 0.2


def test_a_sample_without_readable_images_has_no_facts(tmp_path):
    catalog = pictures(tmp_path, symmetric=True, classes=3)
    for file in tmp_path.glob("*.png"):
        file.write_bytes(b"no image")
    assert sample_facts(catalog) is None


def test_classes_of_one_image_give_no_queries(tmp_path):
    found = sample_facts(pictures(tmp_path, symmetric=False, views=1))
    assert (found.images, found.queries, found.mirrors_differ) == (40, 0, False)


def orientations(image, cells):
    """Of one image (32, 32, 3): weight of each orientation in each cell, pixel by pixel."""
    grey, found = image.mean(axis=2), np.zeros((cells, cells, 8))
    for y in range(32):
        for x in range(32):
            ys, xs = (max(y - 1, 0), min(y + 1, 31)), (max(x - 1, 0), min(x + 1, 31))
            down = (grey[ys[1], x] - grey[ys[0], x]) / (ys[1] - ys[0])
            right = (grey[y, xs[1]] - grey[y, xs[0]]) / (xs[1] - xs[0])
            turn = np.degrees(np.arctan2(down, right)) % 360 / 45
            for orientation in range(8):
                distance = abs((turn - orientation + 4) % 8 - 4)
                weight = max(0.0, 1 - distance) * np.hypot(down, right)
                found[y * cells // 32, x * cells // 32, orientation] += weight
    return np.sqrt(found.ravel() / found.sum())


def patches(image):
    """Of one image (32, 32, 3): the mean of each 4 x 4 pixels, centred, unit length."""
    means = [image[y : y + 4, x : x + 4].mean((0, 1)) for y in range(0, 32, 4)
             for x in range(0, 32, 4)]  # fmt: skip
    flat = np.concatenate(means) - np.mean(means)
    return flat / np.linalg.norm(flat)


def test_recalls_are_those_of_a_loop():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 6, 30)
    shapes = rng.normal(size=(6, 8, 8, 3)).repeat(4, 1).repeat(4, 2)
    noisy = shapes[labels] + 9 * rng.normal(size=(30, 32, 32, 3))
    pixels = (127 + 8 * noisy).clip(0, 255).astype("f4")
    mirrored = pixels[:, :, ::-1]
    places = (partial(orientations, cells=4), patches)
    found = recalls(pixels, labels)
    for hits, queries in zip(found, (pixels, mirrored), strict=True):
        similarity = np.zeros((30, 30))
        for describe in places:
            own, asked = (np.stack([describe(one) for one in them]) for them in (pixels, queries))
            asked, own = asked - own.mean(0), own - own.mean(0)
            lengths = np.linalg.norm(asked, axis=1)[:, None] * np.linalg.norm(own, axis=1)
            similarity += asked @ own.T / lengths
        similarity[np.arange(30), np.arange(30)] = -9
        expected = [
            labels[similarity[i].argmax()] == labels[i]
            for i in range(30)
            if (labels == labels[i]).sum() > 1
        ]
        assert hits.tolist() == expected
    assert found[1].mean() < found[0].mean() < 1
