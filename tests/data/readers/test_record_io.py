"""RecordIO files, written here as dmlc-core and MXNet document them."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from lookalike import storage
from lookalike.data.readers import read_records
from lookalike.data.readers.record_io import read
from lookalike.errors import DataError, StorageError

MAGIC = struct.pack("<I", 0xCED7230A)


def frame(content: bytes, kind: int = 0) -> bytes:
    return MAGIC + struct.pack("<I", kind << 29 | len(content)) + content + bytes(-len(content) % 4)


def written(content: bytes) -> bytes:
    """The records of one content: split where the magic number lies at a multiple of 4 bytes."""
    cuts = [at for at in range(0, len(content) - 3, 4) if content[at : at + 4] == MAGIC]
    if not cuts:
        return frame(content)
    starts, ends = [0, *(cut + 4 for cut in cuts)], [*cuts, len(content)]
    parts = [content[start:end] for start, end in zip(starts, ends, strict=True)]
    kinds = [1, *[2] * (len(parts) - 2), 3]
    return b"".join(map(frame, parts, kinds))


def packed(image: bytes, *labels: float) -> bytes:
    """MXNet's `recordio.pack`: one label in the header, several behind it."""
    if len(labels) == 1:
        return struct.pack("<IfQQ", 0, labels[0], 1, 0) + image
    head = struct.pack("<IfQQ", len(labels), 0.0, 1, 0)
    return head + struct.pack(f"<{len(labels)}f", *labels) + image


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def content_of(record) -> bytes:
    return storage.read_bytes(record.uri, part=(record.member.offset, record.member.size))


def test_images_and_labels_of_insightface(tmp_path, cache):
    images = [jpeg(seed) for seed in range(5)]
    labels = [0, 0, 1, 2, 2]
    contents = [packed(b"", 6.0, 9.0)]  # number of the images + 1, and of all records
    contents += [
        packed(image, label) if number % 2 else packed(image, label, 17.0)
        for number, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    contents += [packed(b"", 1.0, 3.0), packed(b"", 3.0, 4.0), packed(b"", 4.0, 6.0)]
    place = tmp_path / "train.rec"
    place.write_bytes(b"".join(map(written, contents)))
    records = read_records(str(place))
    assert [record.label for record in records] == [str(label) for label in labels]
    assert [content_of(record) for record in records] == images
    assert [record.place for record in records] == [f"{place}: {n}" for n in range(1, 6)]
    assert records == read_records(str(place), "recordio")
    assert not cache.exists()


@pytest.mark.parametrize("times", [1, 3])
def test_an_image_with_the_magic_number_in_it(tmp_path, cache, times):
    # Behind 24 bytes of header, so that every second one lies at a multiple of 4.
    hostile = b"abcd" + (MAGIC + b"wxyz") * times + b"e" + MAGIC + b"end"
    plain = jpeg(1)
    place = tmp_path / "x.rec"
    place.write_bytes(
        written(packed(plain, 3)) + written(packed(hostile, 4)) + written(packed(plain, 5))
    )
    assert place.read_bytes().count(MAGIC) > 3
    records = read_records(str(place))
    assert [record.label for record in records] == ["3", "4", "5"]
    assert [content_of(record) for record in records] == [plain, hostile, plain]
    assert read_records(str(place)) == records  # from the cache


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no images"),
        (b"PK\3\4....", "no RecordIO file: no record at byte 0"),
        (written(packed(b"image", 1))[:-6], "cut off within the record at byte 0"),
        (written(packed(b"image", 1)) + MAGIC, "cut off at byte 40"),
        (written(packed(b"image", 1)) + b"12345678", "damaged: no record at byte 40"),
        (frame(b"few"), "record 0 is none of an image"),
        (frame(struct.pack("<IfQQ", 2**31, 0, 0, 0)), "record 0 is damaged"),
        (frame(packed(b"image", 1), 3), "a part without its beginning"),
        (frame(packed(b"image", 1), 1) + frame(b"x" * 40), "parts of a record are missing"),
        (frame(packed(b"image", 1), 1), "cut off at byte 40"),
        (frame(packed(b"image", 1), 5), "a record of kind 5"),
        (written(packed(b"image", float("nan"))), "record 0: label nan"),
        (written(packed(b"", 1)), "holds no images"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, cache, content, words):
    place = tmp_path / "train.rec"
    place.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_records(str(place))
    assert "\n" not in str(caught.value)
    assert "train.rec" in str(caught.value)


def test_it_has_to_be_on_this_machine(tmp_path):
    from lookalike.data.readers.annotation import Annotation

    with pytest.raises(StorageError, match="copy it to this machine"):
        read(Annotation("s3://faces/train.rec"))
    with pytest.raises(StorageError, match="no such file"):
        read_records(str(tmp_path / "none.rec"))


def test_a_label_that_is_no_whole_number_is_kept(tmp_path, cache):
    place = tmp_path / "x.rec"
    place.write_bytes(written(packed(jpeg(0), 2.5)) + written(packed(jpeg(0), -1)))
    assert [record.label for record in read_records(str(place))] == ["2.5", "-1"]
