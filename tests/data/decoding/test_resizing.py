import io
import json
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import encode, picture
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from lookalike.data.augmentations.training_crop import Augment, scale_box
from lookalike.data.decoding.decode import decode
from lookalike.data.decoding.resize import resize
from lookalike.data.loading.preprocess import Preprocess
from lookalike.errors import ConfigError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MODES = {"bilinear": v2.InterpolationMode.BILINEAR, "bicubic": v2.InterpolationMode.BICUBIC}


def slot(size: int) -> torch.Tensor:
    batch = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    return batch.to(memory_format=torch.channels_last)[1]


def distance(ours: torch.Tensor, theirs: torch.Tensor | Image.Image) -> float:
    if isinstance(theirs, Image.Image):
        theirs = torch.from_numpy(np.array(theirs)).permute(2, 0, 1)
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype == torch.uint8
    return float((ours.int() - theirs.int()).abs().float().mean())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("size", "crop_pct"), [(64, 0.875), (96, 0.9), (97, 1.0), (224, 0.95)])
@pytest.mark.parametrize(
    "shape", [(375, 500), (500, 375), (100, 100), (33, 80), (1, 1), (7, 3), (400, 51), (60, 480)]
)
def test_evaluation_path_is_torchvisions(mode, size, crop_pct, shape):
    pixels = picture(*shape)
    ours = Preprocess(size, crop_pct, MEAN, STD, mode).prepare(pixels)
    theirs = v2.Compose(
        [
            v2.Resize(round(size / crop_pct), MODES[mode], antialias=True),
            v2.CenterCrop(size),
        ]
    )
    assert ours.stride()[0] == 1  # channels last
    assert distance(ours, theirs(torch.from_numpy(pixels).permute(2, 0, 1))) < 0.01
    assert distance(ours, theirs(Image.fromarray(pixels))) <= 1


@pytest.mark.parametrize("shape", [(1, 50000), (30000, 2), (9, 400), (401, 9), (8, 65)])
def test_extreme_ratios_give_the_centre_without_gigabytes(shape):
    size = 64
    pixels = np.zeros((*shape, 3), np.uint8)
    long = int(np.argmax(shape))
    short_length, length = min(shape), max(shape)
    ramp = np.linspace(0, 255, 2 * short_length + length % 2).astype(np.uint8)
    start = (length - len(ramp)) // 2
    shaped = ramp[:, None, None] if long == 0 else ramp[None, :, None]
    window = [slice(None), slice(None)]
    window[long] = slice(start, start + len(ramp))
    pixels[tuple(window)] = shaped
    ours = Preprocess(size, 1.0, MEAN, STD).prepare(pixels)
    assert ours.shape == (3, size, size)
    # The reference resizes a generous neighbourhood of the centre, of another length.
    near = 20 * short_length + (length - 20 * short_length) % 2
    if near < length:
        window[long] = slice((length - near) // 2, (length + near) // 2)
        pixels = pixels[tuple(window)]
    theirs = v2.Compose([v2.Resize(size, antialias=True), v2.CenterCrop(size)])
    assert distance(ours, theirs(torch.from_numpy(pixels.copy()).permute(2, 0, 1))) <= 1


@pytest.mark.parametrize("mode", MODES)
def test_views_stay_channels_last(mode):
    pixels = picture(90, 120)
    for view in (pixels, pixels[10:70, 20:110], pixels[10:42, 20:52]):
        image = resize(view, 32, 32, mode)
        assert image.shape == (3, 32, 32)
        assert image.stride()[0] == 1


def test_normalise():
    images = torch.randint(0, 256, (3, 3, 9, 9), dtype=torch.uint8)
    images = images.to(memory_format=torch.channels_last)
    preprocess = Preprocess(9, 1.0, MEAN, STD)
    with torch.inference_mode():
        preprocess.normalise(images)  # what it keeps must not be bound to this mode
    floats = preprocess.normalise(images)
    assert not floats.is_inference()
    assert floats.dtype == torch.float32
    assert floats.is_contiguous(memory_format=torch.channels_last)
    expected = tv.normalize(images.double() / 255, MEAN, STD)
    torch.testing.assert_close(floats.double(), expected, rtol=0, atol=1e-6)
    assert images.dtype == torch.uint8


def test_preprocess_survives_json():
    preprocess = Preprocess(224, 0.9, MEAN, STD, "bicubic")
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess
    assert preprocess.to_dict()["mean"] == list(MEAN)
    assert preprocess.resized == (249, 249)
    assert preprocess.to_dict()["image_size"] == 224
    tall = Preprocess((256, 128), 0.9, MEAN, STD)
    assert tall.to_dict()["image_size"] == [256, 128]
    assert Preprocess.from_dict(json.loads(json.dumps(tall.to_dict()))) == tall


@pytest.mark.parametrize("shape", [(300, 100), (200, 210), (90, 400), (256, 128)])
def test_an_upright_input_is_the_centre_of_a_picture_that_covers_it(shape):
    preprocess = Preprocess((64, 32), 1.0, MEAN, STD)
    image = picture(*shape)
    scale = max(64 / shape[0], 32 / shape[1])
    size = [max(least, int(side * scale)) for side, least in zip(shape, (64, 32), strict=True)]
    covering = tv.resize(torch.from_numpy(image).permute(2, 0, 1), size, antialias=True)
    found = preprocess.prepare(image)
    assert found.shape == (3, 64, 32)
    assert distance(found, tv.center_crop(covering, [64, 32])) < 0.02


def test_a_crop_for_an_upright_input_is_upright_and_fills_it():
    upright, square = Augment(image_size=(64, 32)), Augment(image_size=64)
    rng = random.Random(0)
    boxes = [upright.draw_box(200, 150, rng) for _ in range(200)]
    ratios = [width / height for _, _, height, width in boxes]
    assert 3 / 8 - 0.02 < min(ratios) < max(ratios) < 2 / 3 + 0.02
    assert upright.least_size(200, 150, (0, 0, 128, 64)) == (100, 75)
    assert square.least_size(200, 150, (0, 0, 128, 64)) == (100, 150)
    batch = torch.zeros(2, 3, 64, 32, dtype=torch.uint8)
    pixels = np.full((200, 150, 3), 9, np.uint8)
    upright.write(pixels, boxes[0], rng, batch[1])
    assert batch[1].eq(9).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"interpolation": "lanczos"}, "'lanczos' is not one of bilinear, bicubic"),
        ({"image_size": 0}, "image_size=0"),
        ({"crop_pct": 1.2}, "crop_pct=1.2"),
        ({"std": (0.1, 0.0, 0.1)}, "std"),
        ({"mean": (0.5,)}, "three numbers"),
        ({"mean": 0.5}, "preprocessing"),
        ({"size": 3}, "'size'"),
    ],
)
def test_wrong_preprocessing_is_refused(change, said):
    values = Preprocess(224, 0.9, MEAN, STD).to_dict() | change
    with pytest.raises(ConfigError, match=said):
        Preprocess.from_dict(values)


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 0},
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.5, 0.2)},
        {"crop_ratio": (2.0, 1.0)},
        {"flip": 1.5},
        {"interpolation": "nearest"},
    ],
)
def test_wrong_augmentation_is_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        Augment(**({"image_size": 32} | change))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(375, 500), (60, 40), (1, 1), (3, 900)])
def test_crop_is_torchvisions_on_the_same_parameters(mode, shape):
    augment = Augment(64, flip=0.5, interpolation=mode)
    pixels = picture(*shape)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    flips = 0
    for seed in range(12):
        rng = random.Random(seed)
        box = augment.draw_box(*shape, rng)
        state = rng.getstate()
        out = slot(64)
        augment.write(pixels, box, rng, out)
        rng.setstate(state)
        expected = tv.resized_crop(image, *box, [64, 64], MODES[mode], antialias=True)
        by_pil = tv.resized_crop(Image.fromarray(pixels), *box, [64, 64], MODES[mode])
        if rng.random() < 0.5:
            flips += 1
            expected, by_pil = tv.hflip(expected), tv.hflip(by_pil)
        assert distance(out, expected) < 0.01
        assert distance(out, by_pil) <= 1
    assert 0 < flips < 12


@given(
    st.integers(1, 500), st.integers(1, 500), st.integers(8, 256), st.integers(0, 10**9),
    st.sampled_from(list(MODES)),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_crops_of_random_sizes_are_torchvisions(height, width, size, seed, mode):
    rng = random.Random(seed)
    augment = Augment(size, crop_scale=(0.02, 1.0), flip=0.0, interpolation=mode)
    pixels = picture(height, width, seed % 1000)
    box, out = augment.draw_box(height, width, rng), slot(size)
    augment.write(pixels, box, rng, out)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    assert distance(out, tv.resized_crop(image, *box, [size, size], MODES[mode], True)) <= 0.01
    exact = tv.resized_crop(image.double(), *box, [size, size], MODES[mode], True)
    assert float((out.double() - exact.clamp(0, 255)).abs().mean()) <= 1
    assert (
        distance(out, tv.resized_crop(Image.fromarray(pixels), *box, [size] * 2, MODES[mode])) <= 1
    )


@pytest.mark.parametrize("shape", [(375, 500), (100, 300), (900, 120)])
def test_boxes_are_distributed_as_torchvisions(shape):
    augment, draws = Augment(64, crop_scale=(0.2, 1.0)), 3000
    rng = random.Random(5)
    ours = np.array([augment.draw_box(*shape, rng) for _ in range(draws)], float)
    transform = v2.RandomResizedCrop(64, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3))
    torch.manual_seed(5)
    like = torch.empty(3, *shape)
    theirs = np.array(
        [
            [made[key] for key in ("top", "left", "height", "width")]
            for made in (transform.make_params([like]) for _ in range(draws))
        ],
        float,
    )
    for a, b in zip(ours.T, theirs.T, strict=True):
        # Two samples' quantiles, in units of the picture; 3000 draws scatter by about 0.01.
        quantiles = np.linspace(0.05, 0.95, 10)
        gap = np.quantile(a, quantiles) - np.quantile(b, quantiles)
        assert np.abs(gap).max() < 0.06 * max(shape)
        assert abs(a.mean() - b.mean()) < 5 * math.hypot(a.std(), b.std()) / math.sqrt(draws) + 1e-9


@given(
    st.integers(1, 400), st.integers(1, 400), st.integers(0, 10**9), st.sampled_from([0.08, 0.9])
)
@settings(max_examples=300, deadline=None)
def test_boxes_lie_in_the_picture(height, width, seed, least):
    augment = Augment(32, crop_scale=(least, 1.0))
    box = augment.draw_box(height, width, random.Random(seed))
    top, left, crop_height, crop_width = box
    assert top >= 0
    assert top + crop_height <= height
    assert left >= 0
    assert left + crop_width <= width
    assert crop_height >= 1
    assert crop_width >= 1
    # The whole picture may be shrunk to the least size, and the crop keeps 32 pixels or its own.
    small = augment.least_size(height, width, box)
    new = scale_box(box, (height, width), small)
    assert new[2] >= min(32, crop_height) - 1
    assert new[3] >= min(32, crop_width) - 1
    assert min(new) >= 0
    assert new[2] >= 1
    assert new[3] >= 1
    assert new[0] + new[2] <= small[0]
    assert new[1] + new[3] <= small[1]


def test_smaller_decoding_gives_nearly_the_same_crop():
    augment = Augment(64, crop_scale=(0.5, 1.0))
    data = encode(picture(700, 900), "JPEG", quality=92)
    full, shrunk = decode(data), 0
    for seed in range(8):
        box = augment.draw_box(700, 900, random.Random(seed))
        small = decode(data, min_size=augment.least_size(700, 900, box))
        shrunk += small.size < full.size
        a, b = slot(64), slot(64)
        augment.write(full, box, random.Random(1), a)
        augment.write(small, scale_box(box, (700, 900), small.shape), random.Random(1), b)
        assert distance(a, b) < 3
    assert shrunk == 8


def test_a_flip_is_drawn_with_its_probability():
    pixels, out = picture(80, 90), slot(32)
    for flip in (0.0, 1.0):
        results = set()
        for seed in range(5):
            Augment(32, flip=flip).write(pixels, (0, 0, 80, 90), random.Random(seed), out)
            results.add(out.numpy().tobytes())
        assert len(results) == 1


def test_pil_reads_back_what_we_prepare():
    """The prepared picture looks like the picture: upright, RGB and not BGR."""
    pixels = np.zeros((200, 300, 3), np.uint8)
    pixels[:100, :, 0] = 255  # red above
    pixels[:, 150:, 2] = 255  # blue on the right
    data = io.BytesIO(encode(pixels, "PNG")).getvalue()
    image = Preprocess(50, 1.0, MEAN, STD).prepare(decode(data))
    corners = SimpleNamespace(a=image[:, 2, 2], b=image[:, 2, -3], c=image[:, -3, 2])
    assert corners.a.tolist() == [255, 0, 0]
    assert corners.b.tolist() == [255, 0, 255]
    assert corners.c.tolist() == [0, 0, 0]


def test_normalising_is_the_same_in_every_layout():
    preprocess = Preprocess(20, 1.0, (0.3, 0.4, 0.5), (0.2, 0.3, 0.25))
    images = torch.randint(0, 256, (5, 3, 20, 14), dtype=torch.uint8)
    expected = preprocess.normalise(images)
    last = preprocess.normalise(images.contiguous(memory_format=torch.channels_last))
    assert torch.equal(last, expected)
    assert last.is_contiguous(memory_format=torch.channels_last)
    wanted = (images.double() / 255 - torch.tensor([0.3, 0.4, 0.5]).view(3, 1, 1)) / torch.tensor(
        [0.2, 0.3, 0.25], dtype=torch.float64
    ).view(3, 1, 1)
    assert (last - wanted).abs().max() < 1e-5
    assert len(preprocess.normalise(images[:0])) == 0
