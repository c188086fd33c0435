import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from picture_files import encode, picture
from PIL import Image
from pixel_distance import MEAN, MODES, STD, distance
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from lookalike.data.decoding.decode import decode
from lookalike.data.decoding.resize import resize
from lookalike.data.loading.preprocess import Preprocess
from lookalike.errors import ConfigError


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
