"""Kinds of files: what is read, what is refused by name, and which way is up in each format."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from picture_files import encode, exif, picture
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lookalike.data.decoding import jpeg_xl
from lookalike.data.decoding.decode import BadImage, decode
from lookalike.data.decoding.image_formats import OTHERS, READ, format_of
from lookalike.data.decoding.pillow_plugins import has_plugin

RGB = picture(30, 40)
needs_heif = pytest.mark.skipif(not has_plugin("HEIC"), reason="pillow-heif is not installed")
needs_jxl = pytest.mark.skipif(not has_plugin("JPEG XL"), reason="pillow-jxl-plugin is missing")


def ftyp(brand: bytes, *others: bytes) -> bytes:
    box = brand + b"\0\0\0\0" + b"".join(others)
    return struct.pack(">I", 8 + len(box)) + b"ftyp" + box + bytes(200)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- by hand -->\n<svg/>", "an SVG drawing"),
        (b"\n<!DOCTYPE html>\n<title>404</title>", "an HTML page"),
        (b"<html><body><svg/></body></html>", "an HTML page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML text"),
        (b'{"error": "not found"}', "a JSON text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"/annex/objects/SHA256E-s9--0.jpg\n", "git annex get"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript drawing"),
        (ftyp(b"isom", b"mp41"), "a video"),
        (ftyp(b"qt  "), "a video"),
        (b"\x1aE\xdf\xa3\1\0\0\0", "a video"),
        (b"RIFF\0\0\0\0AVI LIST", "a video"),
        (ftyp(b"crx "), "a camera raw file"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(40), "a camera raw file"),
        (b"8BPS\0\1", "a Photoshop file"),
        (b"v/1\1\2\0\0\0", "an OpenEXR image"),
        (bytes(128) + b"DICM" + bytes(9), "a DICOM file"),
        (b"PK\3\4" + bytes(30), "a ZIP archive"),
        (b"\x1f\x8b\x08\0", "a gzip file"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X", "metadata of macOS"),
        (bytes(4000), "nothing but zero bytes"),
        (b"", "empty file"),
    ],
)
def test_files_of_other_kinds_are_named_with_the_fix(data, words):
    with pytest.raises(BadImage) as caught:
        decode(data)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 160


def test_formats_that_are_read_are_not_among_the_refused():
    assert not READ & OTHERS.keys()
    for kind, name in (
        ("JPEG", "JPEG"), ("PNG", "PNG"), ("WEBP", "WebP"), ("GIF", "GIF"), ("BMP", "BMP"),
        ("TIFF", "TIFF"), ("AVIF", "AVIF"), ("JPEG2000", "JPEG 2000"), ("PPM", "PNM"),
        ("ICO", "ICO"), ("DDS", "DDS"), ("QOI", "QOI"),
    ):  # fmt: skip
        data = encode(RGB, kind)
        assert format_of(data) == name
        assert name in READ
        assert decode(data).ndim == 3
    assert format_of(ftyp(b"mif1", b"heic")) == "HEIC"
    assert format_of(ftyp(b"mif1", b"avif", b"miaf")) == "AVIF"


@pytest.mark.parametrize(
    ("data", "package", "extra"),
    [(ftyp(b"heic", b"mif1"), "pillow_heif", "heif"), (b"\xff\x0a\0\0", "pillow_jxl", "jxl")],
)
def test_without_its_plugin_a_format_is_named_with_the_extra(monkeypatch, data, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("lookalike.data.decoding.pillow_plugins.find_spec", lambda name: None)
    with pytest.raises(BadImage, match=rf"install its reader: pip install 'lookalike\[{extra}\]'"):
        decode(data)


@needs_heif
def test_heic_is_read_where_its_plugin_is_installed():
    decode_error = pytest.raises(BadImage, match="damaged or truncated HEIC header")
    with decode_error:
        decode(ftyp(b"heic", b"mif1", b"heic"))
    from pillow_heif import register_heif_opener

    register_heif_opener()
    data = encode(RGB, "HEIF", quality=95)
    assert format_of(data) == "HEIC"
    assert np.abs(decode(data).astype(int) - RGB).mean() < 8
    with pytest.raises(BadImage, match="megapixels exceed"):
        decode(data, max_pixels=100)


@needs_jxl
def test_jpeg_xl_is_read_where_its_plugin_is_installed():
    import pillow_jxl  # noqa: F401  # registers itself for writing

    data = encode(RGB, "JXL", lossless=True)
    np.testing.assert_array_equal(decode(data), RGB)
    boxed = encode(RGB, "JXL", lossless=True, use_container=True)
    np.testing.assert_array_equal(decode(boxed), RGB)
    for content in (data, boxed):
        assert jpeg_xl.header(content) == jpeg_xl.Header((30, 40), 1)
        with pytest.raises(BadImage, match="megapixels exceed"):
            decode(content, max_pixels=100)
        with pytest.raises(BadImage) as caught:
            decode(content[:40])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "orientation"), [((16, 16), 6), ((8, 16), 1), ((300, 1200), 8), ((9000, 3), 5)]
)
def test_the_header_of_jpeg_xl(size, orientation):
    bits: list[tuple[int, int]] = [(0, 1)]  # value and number of bits; not small
    for number, side in enumerate(size):
        selector = next(n for n, count in enumerate((9, 13, 18, 30)) if side - 1 < 1 << count)
        bits += [(selector, 2), (side - 1, (9, 13, 18, 30)[selector])]
        bits += [(0, 3)] if not number else []  # no ratio
    bits += [(0, 1), (1, 1), (orientation - 1, 3)]
    value = shift = 0
    for number, count in bits:
        value |= number << shift
        shift += count
    data = b"\xff\x0a" + value.to_bytes(16, "little")
    assert jpeg_xl.header(data) == jpeg_xl.Header(size, orientation)
    boxed = b"\0\0\0\x0cJXL \r\n\x87\n" + struct.pack(">I4s", 0, b"jxlc") + data
    assert jpeg_xl.header(boxed) == jpeg_xl.Header(size, orientation)


def xmp(orientation: int, form: str = 'tiff:Orientation="{}">') -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        f'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" {form.format(orientation)}'
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def oriented(kind: str, by_exif: int | None, by_xmp: int | None, form: str = "") -> bytes:
    """A file whose EXIF and XMP state these orientations; None for no statement."""
    options: dict[str, object] = {}
    packet = None if by_xmp is None else xmp(by_xmp, form or 'tiff:Orientation="{}">')
    if kind == "TIFF":
        tags = {} if by_exif is None else {0x0112: by_exif}
        options["tiffinfo"] = tags | ({} if packet is None else {700: packet})
    else:
        if by_exif is not None:
            options["exif"] = exif(by_exif)
        if packet is not None and kind == "PNG":
            info = PngInfo()
            info.add_itxt("XML:com.adobe.xmp", packet.decode())
            options["pnginfo"] = info
        elif packet is not None:
            options["xmp"] = packet
    image = Image.fromarray(RGB)
    if kind == "CMYK":
        return encode(image.convert("CMYK"), "JPEG", **options)
    return encode(image, kind, quality=95, **options)


KINDS = ["JPEG", "CMYK", "PNG", "WEBP", "TIFF", "AVIF", pytest.param("HEIF", marks=needs_heif)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_orientation_of_exif_and_of_xmp_are_treated_alike(kind):
    if kind == "HEIF":
        from pillow_heif import register_heif_opener

        register_heif_opener()
    upright = {n: decode(oriented(kind, n, None)) for n in (1, 3, 6, 8)}
    assert upright[6].shape == (40, 30, 3)
    assert np.abs(upright[6].astype(int) - np.rot90(RGB, -1)).mean() < 12
    assert np.abs(upright[3].astype(int) - RGB[::-1, ::-1]).mean() < 12
    for number, expected in upright.items():
        np.testing.assert_array_equal(decode(oriented(kind, None, number)), expected)
    np.testing.assert_array_equal(decode(oriented(kind, 3, 6)), upright[3])
    if kind not in ("AVIF", "HEIF"):  # whose writers take an orientation of 1 for none
        np.testing.assert_array_equal(decode(oriented(kind, 1, 6)), upright[1])


@pytest.mark.parametrize("kind", ["JPEG", "CMYK", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    "form", ["tiff:Orientation='{}'>", "><tiff:Orientation>{}</tiff:Orientation>"]
)
def test_xmp_states_the_orientation_in_each_form_of_xml(kind, form):
    expected = decode(oriented(kind, 6, None))
    np.testing.assert_array_equal(decode(oriented(kind, None, 6, form)), expected)


@pytest.mark.parametrize("kind", ["JPEG", "CMYK", "PNG", "WEBP"])
def test_an_orientation_of_exif_that_does_not_exist_leaves_it_to_xmp(kind):
    expected = decode(oriented(kind, 6, None))
    np.testing.assert_array_equal(decode(oriented(kind, 0, 6)), expected)
    np.testing.assert_array_equal(decode(oriented(kind, 0, 9)), decode(oriented(kind, 1, None)))


@needs_heif
def test_heic_whose_boxes_do_not_turn_it_is_turned_by_exif():
    from pillow_heif import register_heif_opener

    register_heif_opener()
    tag = Image.Exif()
    tag[0x0112] = 6  # handed over as an object, it is written without a box of its own
    data = encode(RGB, "HEIF", exif=tag)
    assert b"irot" not in data
    assert decode(data).shape == (40, 30, 3)
    assert decode(encode(RGB, "HEIF", exif=exif(6))).shape == (40, 30, 3)


def tiff(
    pixels: np.ndarray,
    order: str = "<",
    *,
    deflate: bool = False,
    extra: dict[int, int] | None = None,
) -> bytes:
    """A TIFF of one or two strips of any kind of samples, (H, W, C)."""
    height, width, channels = pixels.shape
    kind = pixels.dtype.newbyteorder(order)
    rows = height if height < 8 else height - 3
    strips = [pixels[:rows].astype(kind).tobytes(), pixels[rows:].astype(kind).tobytes()]
    strips = [zlib.compress(strip) if deflate else strip for strip in strips if strip]
    form = {"f": 3, "u": 1, "i": 2}[kind.kind]
    starts = np.cumsum([8, *map(len, strips)]).tolist()
    tags = {
        256: [width], 257: [height], 258: [8 * kind.itemsize] * channels,
        259: [8 if deflate else 1], 262: [2 if channels == 3 else 1], 273: starts[:-1],
        277: [channels], 278: [rows], 279: list(map(len, strips)), 284: [1],
        339: [form] * channels, **{tag: [value] for tag, value in (extra or {}).items()},
    }  # fmt: skip
    entries, beyond, place = b"", b"", starts[-1] + 2 + 12 * len(tags) + 4
    for tag in sorted(tags):
        values = struct.pack(f"{order}{len(tags[tag])}I", *tags[tag])
        if len(values) > 4:
            entries += struct.pack(order + "HHII", tag, 4, len(tags[tag]), place + len(beyond))
            beyond += values
        else:
            entries += struct.pack(order + "HHI", tag, 4, 1) + values
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", starts[-1])
    body = b"".join(strips)
    return head + body + struct.pack(order + "H", len(tags)) + entries + bytes(4) + beyond


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("deflate", [False, True])
def test_floating_point_pixels_from_0_to_1(order, kind, channels, deflate):
    values = np.random.default_rng(4).random((11, 7, channels)).astype(kind)
    expected = np.rint(values.astype(np.float32) * 255)
    pixels = decode(tiff(values, order, deflate=deflate))
    np.testing.assert_array_equal(pixels, np.broadcast_to(expected, (11, 7, 3)))
    turned = decode(tiff(values, order, deflate=deflate, extra={274: 6}))
    np.testing.assert_array_equal(turned, np.rot90(pixels, -1))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tiff(np.full((4, 4, 3), 300, np.float32)), "white is not defined"),
        (tiff(np.full((4, 4, 1), np.nan, np.float64)), "white is not defined"),
        (tiff(np.zeros((4, 4, 5), np.uint8)), "a TIFF of 5 channels of 8 bits, of which it is not"),
        (tiff(np.zeros((4, 4, 4), np.float32)), "a TIFF of 4 channels of 32 floating-point bits"),
        (tiff(np.zeros((4, 4, 3), np.uint32)), "a TIFF of 3 channels of 32 bits"),
        (tiff(np.zeros((4, 4, 3), np.float32), extra={317: 3}), "which is not read; write 8 or 16"),
        (tiff(np.zeros((4, 4, 3), np.float32), extra={257: 10**6}), "megapixels|truncated"),
        (tiff(np.zeros((4, 4, 3), np.uint8), extra={254: 1, 330: 8}), "a camera raw file"),
        (tiff(np.zeros((4, 4, 3), np.uint8), extra={50706: 0x01040000}), "a camera raw file"),
    ],
)
def test_tiff_without_defined_colours_is_named_with_the_fix(data, words):
    with pytest.raises(BadImage, match=words) as caught:
        decode(data)
    assert len(str(caught.value)) < 160


def test_a_float_tiff_is_checked_against_the_limit_before_it_is_read():
    with pytest.raises(BadImage, match="megapixels exceed"):
        decode(tiff(np.zeros((40, 40, 3), np.float64)), max_pixels=1000)


def test_16_bits_of_colour_are_scaled():
    values = np.random.default_rng(5).integers(0, 65536, (9, 8, 3)).astype(np.uint16)
    pixels = decode(tiff(values)).astype(int)
    assert np.abs(pixels - values / 257).max() <= 1


def test_a_pil_image_read_by_the_user_is_turned_alike():
    from lookalike.data.decoding.decode import load_image

    data = oriented("WEBP", None, 6)
    np.testing.assert_array_equal(load_image(Image.open(io.BytesIO(data))), decode(data))
