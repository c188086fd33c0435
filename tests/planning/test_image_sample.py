"""Facts about a sample of images."""

import numpy as np
import pytest
from PIL import Image

from lookalike.data.catalog import open_catalog
from lookalike.planning.image_sample import mirror_recall, sample_facts


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


def test_recall_of_pixels_is_that_of_a_loop():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 6, 30)
    pixels = (rng.normal(size=(6, 4, 4, 3))[labels] + rng.normal(size=(30, 4, 4, 3))).astype("f4")
    hits, mirrored = mirror_recall(pixels, labels)
    for found, flip in ((hits, False), (mirrored, True)):
        expected = []
        for i in range(30):
            if (labels == labels[i]).sum() < 2:
                continue
            query = pixels[i][:, ::-1] if flip else pixels[i]
            cosines = [
                -2.0 if j == i else np.corrcoef(query.ravel(), pixels[j].ravel())[0, 1]
                for j in range(30)
            ]
            expected.append(labels[int(np.argmax(cosines))] == labels[i])
        assert found.tolist() == expected
