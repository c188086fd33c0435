"""Images that a user hands over: of any kind, one or several, in order."""

import copy
import io
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lookalike.errors import DataError, LookalikeError, ModelError, StorageError
from lookalike.exporting.exported import ExportedModel
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


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(5).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.fixture(scope="module")
def exported(embedder):
    def run(images: np.ndarray) -> np.ndarray:
        batch = torch.stack([embedder.preprocess.prepare(pixels) for pixels in images])
        return embedder.embed_batch(batch).numpy()

    return ExportedModel(run, 8)


def kinds(picture: np.ndarray, folder: Path) -> dict[str, object]:
    """One picture in every form in which it can be handed over alone."""
    path = folder / "one.png"
    Image.fromarray(picture).save(path)
    content = path.read_bytes()
    used = io.BytesIO(content)
    used.read()
    first = torch.from_numpy(picture).permute(2, 0, 1)
    return {
        "text": str(path), "path": path, "bytes": content, "bytearray": bytearray(content),
        "memoryview": memoryview(content), "BytesIO": io.BytesIO(content), "at its end": used,
        "file": path.open("rb"), "PIL": Image.fromarray(picture), "PIL file": Image.open(path),
        "array": picture, "channels first": picture.transpose(2, 0, 1),
        "float32": (picture / 255).astype(np.float32), "float64": picture / 255,
        "float16": (picture / 255).astype(np.float16), "uint16": picture.astype(np.uint16) * 257,
        "RGBA": np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)]),
        "tensor": first, "tensor of floats": first / 255, "tensor, channels last": first.permute(
            1, 2, 0), "needs gradient": (first / 255).requires_grad_(),
    }  # fmt: skip


def test_one_image_of_any_kind_gives_one_vector(embedder, exported, picture, tmp_path):
    [expected] = embedder.embed([picture])
    for model in (embedder, exported):
        for name, image in kinds(picture, tmp_path).items():
            found = model.embed(image)
            assert found.shape == (8,), name
            np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=name)
            assert found.dtype == np.float32
            [listed] = model.embed([kinds(picture, tmp_path)[name]])
            np.testing.assert_array_equal(listed, found, err_msg=name)
        assert (model.encode(picture) == model.embed(picture)).all()


def test_grey_and_transparent_pictures_are_seen_as_their_files_are(embedder, tmp_path):
    rng = np.random.default_rng(1)
    grey = rng.integers(0, 256, (20, 30), np.uint8)
    alpha = rng.integers(0, 256, (20, 30, 4), np.uint8)
    forms = {
        "grey": (grey, [grey, grey[:, :, None], grey[None], torch.from_numpy(grey),
                        torch.from_numpy(grey)[None], grey / 255, Image.fromarray(grey)]),
        "alpha": (alpha, [alpha, alpha.transpose(2, 0, 1), alpha / 255, Image.fromarray(alpha),
                          torch.from_numpy(alpha).permute(2, 0, 1)]),
    }  # fmt: skip
    for name, (pixels, images) in forms.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        expected = embedder.embed(tmp_path / f"{name}.png")
        for image in images:
            np.testing.assert_allclose(embedder.embed(image), expected, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "I",
     "I;16", "I;16B", "I;16L", "F"],
)  # fmt: skip
def test_pil_images_of_all_modes(embedder, mode):
    base = Image.fromarray(np.random.default_rng(2).integers(0, 256, (20, 30, 3), np.uint8))
    if mode == "PA":
        image = base.convert("P").convert("PA")
    elif mode in ("La", "RGBa"):
        image = base.convert({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    elif mode.startswith("I"):
        image = Image.fromarray(np.asarray(base.convert("L")).astype(np.uint16) * 257)
        image = image.convert("I") if mode == "I" else image.convert("I").convert(mode)
    elif mode == "F":
        image = Image.fromarray(np.asarray(base.convert("L"), np.float32) / 255)
    else:
        image = base.convert(mode)
    assert image.mode == mode
    found = embedder.embed(image)
    assert found.shape == (8,)
    if mode in ("L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F"):
        np.testing.assert_allclose(found, embedder.embed(base.convert("L")), atol=1e-6)


def test_several_in_any_form_give_one_vector_each(embedder, exported):
    batch = np.random.default_rng(3).integers(0, 256, (5, 20, 30, 3), np.uint8)
    expected = embedder.embed(list(batch), batch_size=2)
    first = torch.from_numpy(batch).permute(0, 3, 1, 2)
    forms = [
        tuple(batch), iter(batch), (one for one in batch), batch, batch.transpose(0, 3, 1, 2),
        batch / 255, first, first / 255, deque(batch), map(Image.fromarray, batch),
    ]  # fmt: skip
    for form in forms:
        found = embedder.embed(form, batch_size=2)
        assert found.shape == (5, 8)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(exported.embed(iter(batch), batch_size=2), expected, atol=1e-6)
    for nothing in ([], (), iter([]), batch[:0], first[:0]):
        assert embedder.embed(nothing).shape == (0, 8)
    tensor = embedder.encode(list(batch), 2, convert_to_tensor=True, show_progress_bar=True)
    np.testing.assert_allclose(tensor.numpy(), expected, atol=1e-6)


def test_an_iterator_is_read_as_it_is_embedded(embedder, monkeypatch):
    """Two at a time: an iterator of a million images is never held whole."""
    held, most = [], []
    real = Embedder.embed_batch

    def embed_batch(self, images):
        most.append(len(held))
        held.clear()
        return real(self, images)

    def images():
        for _ in range(6):
            held.append(1)
            yield np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(Embedder, "embed_batch", embed_batch)
    assert embedder.embed(images(), batch_size=2).shape == (6, 8)
    assert most == [2, 2, 2]


RGB = np.zeros((20, 30, 3), np.uint8)


def closed_file():
    file = io.BytesIO(b"image")
    file.close()
    return file


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, "not NoneType"),
        (7, "not int"),
        ({"a.png": 1}, "has no order"),
        ({"a.png"}, "has no order"),
        ([None], "this one is NoneType"),
        ([["a.png"]], "this one is list"),
        ([RGB[None]], "is a batch"),
        (RGB[None, None], "is no image"),
        (np.zeros(8, np.uint8), "is no image"),
        (np.zeros((5, 20, 30), np.uint8), r"a batch of grey images is \(B, H, W, 1\)"),
        (np.zeros((20, 30, 5), np.uint8), "is no image"),
        (RGB[:0], "no pixels"),
        (RGB.astype(np.int64), "no defined white"),
        (RGB.astype(bool), "no defined white"),
        (RGB + np.float32(1.5), "from 0 to 1"),
        (RGB - np.float32(0.1), "before any normalisation"),
        (np.full((4, 4, 3), np.nan), "from 0 to 1"),
        (torch.full((3, 4, 4), 2.0), "from 0 to 1"),
        (io.StringIO("text"), "mode 'rb'"),
        (closed_file(), "is closed already"),
        (io.BytesIO(b""), "empty file"),
    ],
)
def test_inputs_that_are_no_images_are_refused(embedder, exported, images, message):
    for model in (embedder, exported):
        with pytest.raises(DataError, match=message):
            model.embed(images)


@pytest.mark.parametrize("wrong", [-1, 0, True, 1.5, "2", None])
def test_impossible_batch_sizes_and_threads_are_refused_first(embedder, exported, wrong):
    for model in (embedder, exported):
        with pytest.raises(ModelError, match="batch_size="):
            model.embed([RGB], batch_size=wrong)
        with pytest.raises(ModelError, match="batch_size="):
            model.embed([], batch_size=wrong)
        if wrong != 0:
            with pytest.raises(ModelError, match="threads="):
                model.embed([RGB], threads=wrong)


def test_vectors_that_are_not_finite_or_too_few_are_an_error(embedder, picture):
    broken = copy.deepcopy(embedder)
    with torch.no_grad():
        broken.neck.projections[0].weight.fill_(torch.nan)
    with pytest.raises(LookalikeError, match="finite"):
        broken.embed(picture)
    for shape in ((1, 8), (2, 7), (3, 8)):
        model = ExportedModel(lambda images, shape=shape: np.ones(shape, np.float32), 8)
        with pytest.raises(ModelError, match="gave vectors of shape"):
            model.embed([picture, picture])
    with pytest.raises(DataError, match="takes several pictures"):
        ExportedModel(lambda images: images, 8).embed_pictures(picture)


def test_encode_refuses_unsupported_keywords(embedder, picture):
    with pytest.raises(ModelError, match="unit length"):
        embedder.encode(picture, normalize_embeddings=False)
    with pytest.raises(ModelError, match="choose the device"):
        embedder.encode(picture, device="cuda")
    assert isinstance(embedder.encode(picture, device="cpu", convert_to_numpy=False), torch.Tensor)


def test_unreadable_images_are_named(embedder, tmp_path):
    with pytest.raises(StorageError, match=r"nothing\.png"):
        embedder.embed([np.zeros((4, 4, 3), np.uint8), tmp_path / "nothing.png"])
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken\.png"):
        embedder.embed([np.zeros((4, 4, 3), np.uint8), tmp_path / "broken.png"])
