import random
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_files import encode, exif, picture
from PIL import Image

from lookalike.data.augmentations.training_crop import Augment
from lookalike.data.catalog import Catalog, Classes, Record
from lookalike.data.decoding import partial_jpeg
from lookalike.data.decoding.decode import BadImage, decode, jpeg_header
from lookalike.data.decoding.orientation import stored_box, upright
from lookalike.data.loading import image_source as source_module
from lookalike.data.loading.bad_images import BadImages
from lookalike.data.loading.image_source import Source
from lookalike.data.loading.train_loader import TrainLoader
from lookalike.data.record import Details


@pytest.fixture
def small_parts(monkeypatch):
    """Small images too are decoded in part."""
    monkeypatch.setattr(partial_jpeg, "LEAST_BELOW", 0)


def decode_part(data, box):
    return partial_jpeg.decode_part(data, box, jpeg_header(data))


def in_part(data, box):
    return partial_jpeg.decode_upper_part(data, box, jpeg_header(data)) is not None


def random_box(size, dice):
    height, width = dice.randint(1, size[0]), dice.randint(1, size[1])
    return dice.randint(0, size[0] - height), dice.randint(0, size[1] - width), height, width


def cut(pixels, box):
    top, left, height, width = box
    return pixels[top : top + height, left : left + width]


def noise(height, width, seed):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("make", [picture, noise])
def test_a_part_has_the_pixels_of_the_whole(subsampling, make, small_parts):
    dice, parts = random.Random(subsampling), 0
    for seed in range(40):
        size = dice.randint(20, 260), dice.randint(20, 260)
        data = encode(
            make(*size, seed), "JPEG", quality=dice.choice([30, 75, 95]), subsampling=subsampling,
            exif=exif(dice.randint(1, 8)),
        )  # fmt: skip
        whole = decode(data)
        for _ in range(8):
            box = random_box(jpeg_header(data).upright_size, dice)
            parts += in_part(data, box)
            np.testing.assert_array_equal(decode_part(data, box), cut(whole, box))
    assert parts > 200


@pytest.mark.parametrize(
    "data",
    [
        encode(picture(300, 420), "JPEG", progressive=True),
        encode(picture(300, 420), "JPEG", restart_marker_blocks=3),
        encode(Image.fromarray(picture(300, 420)).convert("L"), "JPEG"),
        encode(Image.fromarray(picture(300, 420)).convert("CMYK"), "JPEG"),
        encode(picture(300, 420), "JPEG", keep_rgb=True),
        encode(picture(300, 420), "JPEG") + b"tail",
    ],
    ids=["progressive", "restarts", "grey", "cmyk", "rgb", "tail"],
)
def test_other_files_are_decoded_whole(data, small_parts):
    assert not in_part(data, (20, 30, 100, 90))
    np.testing.assert_array_equal(
        decode_part(data, (20, 30, 100, 90)), decode(data)[20:120, 30:120]
    )


def test_damage_does_the_same_as_in_the_whole(small_parts):
    """Bits turned in the scan: the same pixels, or refused alike."""
    dice, parts, refused = random.Random(3), 0, 0
    for seed in range(150):
        data = bytearray(encode(picture(230, 250, seed), "JPEG", quality=90))
        start = partial_jpeg.only_scan(data).start
        for _ in range(dice.randint(1, 4)):
            data[dice.randrange(start, len(data))] = dice.choice([255, dice.randrange(256)])
        if dice.random() < 0.2:
            data = data[: dice.randrange(start, len(data))]
        data, box = bytes(data), random_box((230, 250), dice)
        parts += in_part(data, box)
        try:
            whole = decode(data)
        except BadImage:
            refused += 1
            with pytest.raises(BadImage):
                decode_part(data, box)
        else:
            np.testing.assert_array_equal(decode_part(data, box), cut(whole, box))
    assert parts > 20
    assert refused > 20


def test_a_truncated_file_is_refused_for_any_part():
    data = encode(picture(400, 500), "JPEG")
    for share in (0.5, 0.9, 0.999):
        with pytest.raises(BadImage, match="truncated"):
            decode_part(data[: int(len(data) * share)], (0, 0, 50, 50))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_lie_where_the_orientation_says(orientation):
    stored = noise(31, 47, 0)
    turned = upright(stored, orientation)
    for seed in range(20):
        box = random_box(turned.shape[:2], random.Random(seed))
        part_stored = cut(stored, stored_box(box, stored.shape[:2], orientation))
        np.testing.assert_array_equal(upright(part_stored, orientation), cut(turned, box))


def write_photos(folder):
    """Photographs of several kinds, some with boxes, one damaged, as a catalog."""
    dice, records = random.Random(0), []
    for row in range(24):
        size = dice.randint(300, 520), dice.randint(300, 520)
        kind = {"subsampling": row % 3, "exif": exif(1 + row % 8), "progressive": row % 7 == 6}
        content = encode(picture(*size, row), "JPEG", **kind)
        path = folder / f"{row}.jpg"
        path.write_bytes(content[: len(content) // 2] if row == 11 else content)
        details = Details(box=(-5, 20, 150, 1000)) if row % 4 == 1 else None
        records.append(Record(str(path), "0", "list.txt", row + 1, details=details))
    return Catalog(tuple(records), np.zeros(24, np.int64), Classes(("0",)))


@pytest.mark.parametrize("scaled", [False, True])
def test_batches_do_not_depend_on_decoding_in_part(tmp_path, monkeypatch, scaled):
    catalog = write_photos(tmp_path)
    augment = Augment(120 if scaled else 32, scaled_decode=scaled)

    def batches(threads):
        bad = BadImages()
        loader = TrainLoader(
            catalog, batch_size=6, augment=augment, seed=3, source=Source(threads=threads), bad=bad
        )
        made = [batch for epoch in range(2) for batch in loader.epoch(epoch)]
        assert list(bad.reasons) == [11]
        return torch.cat([batch.images for batch in made]), torch.cat([b.rows for b in made])

    asked, upper_part = [], partial_jpeg.decode_upper_part

    def spy(*arguments):
        pixels = upper_part(*arguments)
        asked.append(pixels is not None)
        return pixels

    monkeypatch.setattr(partial_jpeg, "decode_upper_part", spy)
    in_part = [batches(threads) for threads in (0, 3)]
    assert sum(asked) > 10
    monkeypatch.setattr(partial_jpeg, "decode_upper_part", lambda *_: None)
    whole = batches(2)
    for images, rows in in_part:
        assert torch.equal(images, whole[0])
        assert torch.equal(rows, whole[1])


def test_bytes_read_twice_are_cropped_alike(tmp_path, monkeypatch):
    """A file that is whole only at the second try gives the crop that it always gives."""
    catalog = write_photos(tmp_path)
    good = catalog.records[0].uri
    row = Catalog(catalog.records[:1], catalog.class_ids[:1], catalog.classes)
    (first,) = TrainLoader(row, batch_size=1, augment=Augment(32), seed=0).epoch(0)
    content, calls = Path(good).read_bytes(), []

    def read(uri, **_):
        calls.append(uri)
        return content[: len(content) // 2] if len(calls) == 1 else content

    monkeypatch.setattr(source_module, "read_bytes", read)
    (second,) = TrainLoader(row, batch_size=1, augment=Augment(32), seed=0).epoch(0)
    assert len(calls) == 2
    assert torch.equal(first.images, second.images)


def test_a_header_that_lies_about_the_size():
    data = encode(picture(60, 50), "JPEG")
    with pytest.raises(BadImage, match="another size"):
        decode_part(data, (30, 0, 60, 50))
