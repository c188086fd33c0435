"""JPEGs whose end is missing: bad by default, accepted on request, alike by every decoder."""

import numpy as np
import pytest
import simplejpeg
from picture_files import encode, exif, picture

from lookalike.data.decoding import partial_jpeg
from lookalike.data.decoding.decode import BadImage, decode, jpeg_header
from lookalike.data.decoding.jpeg_markers import completed
from lookalike.data.loading.bad_images import BadImages
from lookalike.data.loading.image_source import PLAIN, Source, read_twice
from lookalike.data.loading.preprocess import Preprocess
from lookalike.data.loading.sequential import EvalLoader
from lookalike.data.record import Record

RGB = picture(480, 640)
PLAIN_JPEG = encode(RGB, "JPEG", quality=90)
FORMS = {
    "baseline": PLAIN_JPEG,
    "progressive": encode(RGB, "JPEG", quality=90, progressive=True),
    "turned": encode(RGB, "JPEG", quality=90, exif=exif(6)),
    "grey": encode(RGB[..., 0], "JPEG", quality=90),
    "restarts": encode(RGB, "JPEG", quality=90, restart_marker_blocks=4),
}
LENIENT = Source(allow_truncated=True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.999])
def test_what_is_there_is_decoded_and_the_rest_is_filled(form, share):
    whole = FORMS[form]
    cut = whole[: int(share * len(whole))]
    with pytest.raises(BadImage, match=r"truncated JPEG; download it again, or set data\.allow_tr"):
        decode(cut)
    pixels, expected = decode(completed(cut)), decode(whole)
    assert pixels.shape == expected.shape
    if form in ("baseline", "grey", "restarts"):
        rows = int((share - 0.15) * len(RGB))
        np.testing.assert_array_equal(pixels[:rows], expected[:rows])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_every_decoder_gives_the_same_pixels(form, share):
    data = completed(FORMS[form][: int(share * len(FORMS[form]))])
    pixels, header = decode(data), jpeg_header(data)
    height = len(pixels)
    for box in ((0, 0, 100, 80), (height - 90, 30, 80, 200), (200, 100, 150, 64)):
        top, left, rows, columns = box
        np.testing.assert_array_equal(
            partial_jpeg.decode_part(data, box, header),
            pixels[top : top + rows, left : left + columns],
        )
    np.testing.assert_array_equal(decode(data, min_size=(60, 80)), pixels)


def test_only_a_missing_end_is_added():
    for whole in FORMS.values():
        assert completed(whole) is whole
        assert completed(whole + b"trailing bytes") == whole + b"trailing bytes"
    header = PLAIN_JPEG[: PLAIN_JPEG.index(b"\xff\xda") + 14]
    for other in (b"", b"\xff\xd8", header, PLAIN_JPEG[:100], encode(RGB, "PNG")[:900]):
        assert completed(other) == other
    assert completed(PLAIN_JPEG[:-2]) == PLAIN_JPEG + b"\xff\xd9"
    assert completed(PLAIN_JPEG[:-1]) == PLAIN_JPEG + b"\xff\xd9"
    thumbnail = encode(picture(20, 30), "JPEG", exif=exif(1) + PLAIN_JPEG[-40:])  # with an end
    assert completed(thumbnail[:-9]) != thumbnail[:-9]
    assert simplejpeg.is_jpeg(completed(PLAIN_JPEG[:-2]))


def test_a_file_is_read_again_before_it_is_accepted(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(PLAIN_JPEG)
    record = Record(str(path), "", "list.txt", 1)
    halves = [PLAIN_JPEG[:9000]]

    def read(uri, **options):
        return halves.pop() if halves else PLAIN_JPEG

    monkeypatch.setattr("lookalike.data.loading.image_source.read_bytes", read)
    np.testing.assert_array_equal(read_twice(record, decode, LENIENT), decode(PLAIN_JPEG))


def test_loaders_accept_it_on_request(tmp_path):
    preprocess = Preprocess(64, 1.0, (0.5,) * 3, (0.5,) * 3)
    (tmp_path / "a.jpg").write_bytes(PLAIN_JPEG[:-2])
    (tmp_path / "b.jpg").write_bytes(PLAIN_JPEG)
    records = [Record(str(tmp_path / name), "0", "list.txt", 1) for name in ("a.jpg", "b.jpg")]
    for source, count in ((PLAIN, 1), (LENIENT, 2)):
        bad = BadImages()
        [batch] = EvalLoader(records, preprocess=preprocess, batch_size=2, bad=bad, source=source)
        assert len(batch.rows) == count
        assert len(bad) == 2 - count
    np.testing.assert_array_equal(batch.images[0].numpy(), batch.images[1].numpy())


def test_the_setting_and_the_argument_reach_the_source(tmp_path):
    from lookalike.commands.read_options import ReadOptions
    from lookalike.config.config import Config
    from lookalike.training.request_lists import create_source

    (tmp_path / "a.jpg").write_bytes(PLAIN_JPEG[:9000])
    record = Record(str(tmp_path / "a.jpg"), "0", "list.txt", 1)
    trained = Config().with_values({"data.allow_truncated": True})
    for source, accepted in (
        (create_source(Config()), False),
        (create_source(trained), True),
        (ReadOptions().source([]), False),
        (ReadOptions(allow_truncated=True).source([]), True),
    ):
        ended = source.read(record, fresh=True).endswith(b"\xff\xd9")
        assert ended == accepted
        assert source.read(record) == PLAIN_JPEG[:9000]
