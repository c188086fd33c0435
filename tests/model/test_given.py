"""Images that a user hands over: of any kind, in order, a list."""

import numpy as np
import pytest
import torch
from PIL import Image

from lookalike.errors import DataError, ModelError, StorageError
from lookalike.model.embedder import Embedder


@pytest.fixture(scope="module")
def embedder():
    torch.manual_seed(0)
    return Embedder.create("test_resnet", pretrained=False, image_size=32, embedding_dim=8)


def test_paths_bytes_pictures_and_arrays_are_one_list_in_order(embedder, tmp_path):
    arrays = [np.random.default_rng(i).integers(0, 256, (20, 30, 3), np.uint8) for i in range(7)]
    paths = [tmp_path / f"{i}.png" for i in range(7)]
    for array, path in zip(arrays, paths, strict=True):
        Image.fromarray(array).save(path)
    given = [
        paths[0], str(paths[1]), paths[2].read_bytes(), Image.open(paths[3]), arrays[4],
        paths[5], arrays[6],
    ]  # fmt: skip
    expected = embedder.embed(arrays, batch_size=3)
    assert len(np.unique(expected, axis=0)) == 7
    for threads in (0, 3):
        found = embedder.embed(given, batch_size=3, threads=threads)
        assert np.array_equal(found, expected)
    assert embedder.embed([]).shape == (0, 8)


@pytest.mark.parametrize("one", ["a.png", b"bytes", iter([])])
def test_one_image_is_no_list(embedder, one):
    with pytest.raises(ModelError, match=rf"not one {type(one).__name__}; write embed\(\[image"):
        embedder.embed(one)


def test_what_cannot_be_read_is_named(embedder, tmp_path):
    with pytest.raises(StorageError, match=r"nothing\.png"):
        embedder.embed([np.zeros((4, 4, 3), np.uint8), tmp_path / "nothing.png"])
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken\.png"):
        embedder.embed([np.zeros((4, 4, 3), np.uint8), tmp_path / "broken.png"])
