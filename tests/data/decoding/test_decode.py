import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import encode, exif, picture
from PIL import Image, ImageOps

from lookalike.data.decoding.decode import (
    MAX_PIXELS,
    BadImage,
    decode,
    from_pil,
    jpeg_header,
    load_image,
    shrinks,
)
from lookalike.errors import StorageError

RGB = picture(61, 83)
PIL_RGB = Image.fromarray(RGB)
ALPHA = Image.fromarray(picture(61, 83, 5)[..., 0])


def by_pil(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def on_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None].astype(np.float64) / 255
    return rgb * share + 255 * (1 - share)


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(ALPHA)
    return image


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encode(RGB, "JPEG", quality=85), id="jpeg"),
        pytest.param(encode(RGB, "JPEG", subsampling=0), id="jpeg 444"),
        pytest.param(encode(RGB, "JPEG", progressive=True), id="jpeg progressive"),
        pytest.param(encode(PIL_RGB.convert("L"), "JPEG"), id="jpeg grey"),
        pytest.param(encode(PIL_RGB.convert("CMYK"), "JPEG"), id="jpeg cmyk"),
        pytest.param(encode(RGB, "JPEG", keep_rgb=True), id="jpeg rgb"),
        pytest.param(encode(RGB, "JPEG") + b"rubbish", id="jpeg with a tail"),
        pytest.param(encode(RGB, "MPO", save_all=True, append_images=[PIL_RGB]), id="mpo"),
        pytest.param(encode(RGB, "PNG"), id="png"),
        pytest.param(encode(PIL_RGB.convert("L"), "PNG"), id="png grey"),
        pytest.param(encode(PIL_RGB.convert("1"), "PNG"), id="png 1 bit"),
        pytest.param(encode(PIL_RGB.quantize(40), "PNG"), id="png palette"),
        pytest.param(encode(RGB, "WEBP", quality=90), id="webp"),
        pytest.param(encode(RGB, "WEBP", lossless=True), id="webp lossless"),
        pytest.param(encode(PIL_RGB.quantize(40), "GIF"), id="gif"),
        pytest.param(encode(RGB, "BMP"), id="bmp"),
        pytest.param(encode(PIL_RGB.convert("1"), "BMP"), id="bmp 1 bit"),
        pytest.param(encode(RGB, "TIFF"), id="tiff"),
        pytest.param(encode(RGB, "TIFF", compression="tiff_lzw"), id="tiff lzw"),
        pytest.param(encode(PIL_RGB.convert("CMYK"), "TIFF"), id="tiff cmyk"),
        pytest.param(encode(RGB, "PPM"), id="ppm"),
        pytest.param(encode(picture(1, 1), "JPEG"), id="jpeg 1 x 1"),
        pytest.param(encode(picture(1, 1), "PNG"), id="png 1 x 1"),
        pytest.param(encode(picture(1, 3000), "PNG"), id="png 1 x 3000"),
        pytest.param(encode(picture(3000, 2), "JPEG"), id="jpeg 3000 x 2"),
    ],
)
def test_pixels_are_those_of_pil(data):
    pixels = decode(data)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, by_pil(data))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_lies_on_white(kind):
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    pixels = decode(encode(with_alpha(PIL_RGB), kind, **options))
    assert np.abs(pixels - on_white(RGB, np.asarray(ALPHA))).max() <= 1


def test_grey_with_alpha_lies_on_white():
    grey = PIL_RGB.convert("L")
    expected = on_white(np.asarray(grey.convert("RGB")), np.asarray(ALPHA))
    assert np.abs(decode(encode(with_alpha(grey), "PNG")) - expected).max() <= 1


def test_transparent_palette_colour_becomes_white():
    image = PIL_RGB.quantize(8)
    indices, colours = np.asarray(image), np.asarray(image.convert("RGB"))
    expected = np.where(indices[..., None] == 3, 255, colours)
    np.testing.assert_array_equal(decode(encode(image, "PNG", transparency=3)), expected)
    # A byte for each colour, the form that PIL warns about.
    shares = bytes([255, 0, 128])
    alpha = np.array([*shares, 255, 255, 255, 255, 255])[indices]
    pixels = decode(encode(image, "PNG", transparency=shares))
    assert np.abs(pixels - on_white(colours, alpha)).max() <= 1


def test_transparent_colour_of_png_becomes_white():
    rgb = RGB.copy()
    rgb[10:20] = (1, 2, 3)
    expected = rgb.copy()
    expected[10:20] = 255
    pixels = decode(encode(rgb, "PNG", transparency=(1, 2, 3)))
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_scaled_not_clipped(kind):
    values = np.random.default_rng(1).integers(0, 65536, (30, 40)).astype(np.uint16)
    values[0, :3] = (0, 32896, 65535)
    data = encode(Image.fromarray(values), kind)
    expected = np.rint(values.astype(np.float64) / 257)
    pixels = decode(data)
    assert pixels.shape == (30, 40, 3)
    assert np.abs(pixels - expected[..., None]).max() <= 1  # PNM: PIL rescales
    assert pixels[0, :3, 1].tolist() == [0, 128, 255]


def test_big_endian_16_bit_tiff():
    values = np.random.default_rng(2).integers(0, 65536, (9, 8)).astype(np.uint16)
    data = encode(Image.frombytes("I;16B", (8, 9), values.astype(">u2").tobytes()), "TIFF")
    expected = np.rint(values / 257)
    assert np.abs(decode(data)[..., 0] - expected).max() == 0


def test_floating_point_tiff():
    values = np.random.default_rng(3).random((9, 8), dtype=np.float32)
    data = encode(Image.fromarray(values), "TIFF")
    assert np.abs(decode(data)[..., 2] - np.rint(values * 255)).max() == 0
    for bad in (values * 300, values - 1, np.where(values > 0.5, np.nan, values)):
        with pytest.raises(BadImage, match="white is not defined"):
            decode(encode(Image.fromarray(bad.astype(np.float32)), "TIFF"))
    with pytest.raises(BadImage, match="white is not defined"):
        decode(encode(Image.fromarray(np.full((4, 4), 70000, np.int32)), "TIFF"))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_first_frame_of_an_animation(kind):
    others = [Image.fromarray(picture(61, 83, seed)).quantize(40) for seed in (1, 2)]
    first = PIL_RGB.quantize(40)
    data = encode(first, kind, save_all=True, append_images=others, duration=50)
    reference = Image.open(io.BytesIO(data))
    assert reference.n_frames == 3
    pixels = decode(data)
    np.testing.assert_array_equal(pixels, np.asarray(reference.convert("RGB")))
    difference = np.abs(pixels.astype(int) - np.asarray(first.convert("RGB")))
    assert difference.mean() < 8  # WebP loses a little


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    tag = Image.Exif()
    tag[0x0112] = orientation
    for data in (
        encode(RGB, "JPEG", exif=tag),
        encode(PIL_RGB.convert("CMYK"), "JPEG", exif=tag),
        encode(RGB, "PNG", exif=tag),
        encode(RGB, "WEBP", exif=tag),
        encode(RGB, "TIFF", exif=tag),
        *(
            encode(RGB, "JPEG", exif=exif(orientation, order, size))
            for order in "<>"
            for size in (3, 4)
        ),
    ):
        pixels = decode(data)
        assert pixels.shape == ((83, 61, 3) if orientation >= 5 else (61, 83, 3))
        assert pixels.flags.c_contiguous
        np.testing.assert_array_equal(pixels, by_pil(data))
    assert jpeg_header(encode(RGB, "JPEG", exif=tag)).upright_size == pixels.shape[:2]
    byte = encode(RGB, "JPEG", exif=exif(orientation, "<", 1))  # of a type that is not allowed
    np.testing.assert_array_equal(decode(byte), by_pil(byte))
    image = Image.open(io.BytesIO(encode(RGB, "PNG", exif=tag)))
    np.testing.assert_array_equal(from_pil(image), by_pil(encode(RGB, "PNG", exif=tag)))


@pytest.mark.parametrize(
    "block", [b"", b"II", exif(6)[:20], exif(0), exif(9), b"Exif\0\0XX" + exif(6)[8:]]
)
def test_damaged_exif_does_not_spoil_the_picture(block):
    block = block if block.startswith(b"Exif") else b"Exif\0\0" + block
    jpeg = encode(RGB, "JPEG")
    app1 = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    np.testing.assert_array_equal(decode(jpeg[:2] + app1 + jpeg[2:]), decode(jpeg))
    png = encode(RGB, "PNG", exif=block)
    np.testing.assert_array_equal(decode(png), RGB)


def test_filling_before_a_jpeg_marker_is_skipped():
    jpeg = encode(RGB, "JPEG", exif=exif(6))
    assert decode(jpeg[:2] + b"\xff\xff" + jpeg[2:]).shape == (83, 61, 3)


def test_icc_profile_is_ignored():
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain, tagged = encode(RGB, "JPEG"), encode(RGB, "JPEG", icc_profile=profile)
    np.testing.assert_array_equal(decode(plain), decode(tagged))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_truncated(kind, share):
    image = PIL_RGB.quantize(40) if kind == "GIF" else PIL_RGB
    data = encode(image, kind)
    with pytest.raises(BadImage, match=r"truncated|damaged|not an image"):
        decode(data[: max(2, int(len(data) * share))])


def test_reasons():
    jpeg = encode(RGB, "JPEG")
    for data, reason in (
        (b"", "empty file"),
        (b"no image", "not an image (starts with b'no im')"),
        (
            jpeg[: len(jpeg) // 2],
            "truncated JPEG; download it again, or set data.allow_truncated=true "
            "(--allow-truncated)",
        ),
        (encode(RGB, "PNG")[:3000], "truncated PNG; download it again"),
        (b"\x89PNG\r\n\x1a\n", "damaged or truncated PNG header"),
    ):
        with pytest.raises(BadImage) as caught:
            decode(data)
        assert str(caught.value) == reason


def huge_png(side: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def huge_jpeg(side: int) -> bytes:
    data = bytearray(encode(RGB, "JPEG"))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", side, side)
    return bytes(data)


@pytest.mark.parametrize("data", [huge_png(17000), huge_jpeg(17000)], ids=["png", "jpeg"])
def test_bombs_are_refused_by_their_header(data):
    assert MAX_PIXELS < 17000**2
    with pytest.raises(BadImage, match="289 megapixels exceed"):
        decode(data)


def test_limit_of_pixels():
    for kind in ("JPEG", "PNG"):
        data = encode(picture(100, 150), kind)
        assert decode(data, max_pixels=15000).shape == (100, 150, 3)
        with pytest.raises(BadImage, match=r"0\.015 megapixels exceed the limit of 0\.01\b"):
            decode(data, max_pixels=10000)


def test_pil_warnings_do_not_leak():
    big = encode(Image.new("1", (9500, 9500)), "PNG")  # above the size at which PIL warns
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert decode(big).shape == (9500, 9500, 3)
        decode(encode(PIL_RGB.quantize(8), "PNG", transparency=bytes([255, 0, 128])))
        with pytest.raises(BadImage):
            decode(encode(RGB, "TIFF")[:200])
        warnings.warn("ours", UserWarning, stacklevel=1)
    assert [str(item.message) for item in caught] == ["ours"]


def test_smaller_decoding_stays_above_the_asked_size():
    tag = Image.Exif()
    tag[0x0112] = 6
    rgb = picture(600, 900)
    for data, size in (
        (encode(rgb, "JPEG"), (600, 900)),
        (encode(rgb, "JPEG", exif=tag), (900, 600)),
    ):
        full = decode(data)
        assert full.shape == (*size, 3)
        small = decode(data, min_size=(size[0] // 3, size[1] // 4))
        assert small.shape[:2] == (size[0] // 2, size[1] // 2)
        reduced = Image.fromarray(full).resize(small.shape[1::-1], Image.Resampling.BOX)
        assert np.abs(np.asarray(reduced).astype(int) - small).mean() < 3
        assert decode(data, min_size=(5000, 5000)).shape == full.shape
        # Only what libjpeg-turbo does fast: a half, a quarter, an eighth.
        for eighths, divisor in ((7, 1), (5, 1), (4, 2), (3, 2), (2, 4), (1, 8)):
            least = tuple(-(-side * eighths // 8) for side in size)
            small = decode(data, min_size=least)
            assert small.shape[:2] == tuple(-(-side // divisor) for side in size)
            assert shrinks(size, least) == (divisor > 1)
    assert decode(encode(rgb, "PNG"), min_size=(10, 10)).shape == rgb.shape


def test_load_image_takes_anything(tmp_path):
    path = tmp_path / "a b.png"
    path.write_bytes(encode(RGB, "PNG"))
    for source in (
        str(path), path, path.as_uri(), path.read_bytes(), PIL_RGB, Image.open(path),
    ):  # fmt: skip
        pixels = load_image(source)
        np.testing.assert_array_equal(pixels, RGB)
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable


def test_load_image_refuses_clearly(tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(encode(RGB, "JPEG")[:900])
    with pytest.raises(BadImage, match=r"bad\.jpg: truncated"):
        load_image(bad)
    with Image.open(bad) as image, pytest.raises(BadImage, match="truncated"):
        load_image(image)
    with pytest.raises(StorageError, match=r"none\.jpg"):
        load_image(tmp_path / "none.jpg")


SEEDS = [
    encode(picture(20, 30), "JPEG", exif=exif(6)),
    encode(picture(20, 30), "JPEG", progressive=True),
    encode(PIL_RGB.convert("CMYK").resize((20, 20)), "JPEG"),
    encode(picture(20, 30), "PNG"),
    encode(Image.fromarray(picture(20, 30)).quantize(9), "PNG", transparency=2),
    encode(picture(20, 30), "WEBP"),
    encode(Image.fromarray(picture(20, 30)).quantize(9), "GIF"),
    encode(picture(20, 30), "BMP"),
    encode(picture(20, 30), "TIFF"),
    encode(picture(20, 30), "TIFF", compression="tiff_lzw"),
    encode(picture(20, 30), "PPM"),
    encode(picture(20, 30), "JPEG2000"),
    encode(picture(16, 16), "ICO", sizes=[(16, 16)]),
    encode(picture(16, 16), "DDS"),
]


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_fuzzed_bytes_give_pixels_or_badimage(data):
    content = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 6))):
        # Headers are short: half of the changes go there.
        end = data.draw(st.sampled_from([min(64, len(content)), len(content)]))
        content[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    try:
        pixels = decode(bytes(content), max_pixels=1_000_000)
    except BadImage as error:
        reason = str(error)
        assert reason
        assert len(reason) < 160
        assert "\n" not in reason
    else:
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        assert 0 < pixels.size <= 3_000_000


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF"]),
)
def test_arbitrary_bytes_are_badimage(content, signature):
    with pytest.raises(BadImage):
        decode(signature + content)
