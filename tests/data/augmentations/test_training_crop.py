import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import encode, picture
from PIL import Image
from pixel_distance import MODES, distance, slot
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from lookalike.data.augmentations.training_crop import Augment, scale_box
from lookalike.data.decoding.decode import decode


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
