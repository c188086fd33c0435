"""Bytes to pixels: any image file to uint8 RGB, or a `BadImage` with the reason.

JPEG is decoded by simplejpeg (libjpeg-turbo: bit for bit PIL's pixels at 1.4 to 1.8 times the
speed, without the GIL); everything else, and files that simplejpeg refuses, by PIL.
"""

from __future__ import annotations

import io
import os
import re
import threading
import warnings
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from lookalike.data.decoding import jpeg_xl, pillow_plugins, tiff
from lookalike.data.decoding.image_formats import OTHERS, format_of
from lookalike.data.decoding.orientation import jpeg_orientation, pil_orientation, upright
from lookalike.errors import DataError
from lookalike.storage import NO_LIMITS, Limits, public, read_bytes

MAX_PIXELS = 178_956_970
"""The largest image that is decoded by default, which is PIL's own limit."""

ImageSource = str | os.PathLike[str] | bytes | Image.Image

# Formats for PIL. EPS (which starts Ghostscript), and TGA (which has no signature and so accepts
# any bytes), are left out on purpose.
_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000"),
    *("PPM", "ICO", "DDS", "QOI"),
)

# Formats that some builds of PIL leave out, by `format_of`, and PIL's name of them.
_OPTIONAL = {"AVIF": "AVIF", "JPEG 2000": "JPEG2000", "WebP": "WEBP"}

_AGAIN = "download it again"
TRUNCATED = f"{_AGAIN}, or set data.allow_truncated=true (--allow-truncated)"
"""The fix for a JPEG whose end is missing."""

_JPEG_FAST = ("YCbCr", "RGB", "Gray")  # simplejpeg converts these as PIL does

_PIL_FILTER = ("ignore", None, Warning, re.compile(r"PIL\b"), 0)
_filter_lock = threading.Lock()


class BadImage(DataError):
    """Bytes that cannot be turned into pixels; the message is a short reason."""


class JpegHeader(NamedTuple):
    """Facts of a JPEG that are known before decoding.

    Attributes:
        size: height and width of the stored pixels.
        colorspace: simplejpeg's name; "YCbCr" for most.
        subsampling: of the chroma; "420" for most.
        orientation: as in EXIF, 1 to 8.
    """

    size: tuple[int, int]
    colorspace: str
    subsampling: str
    orientation: int

    @property
    def upright_size(self) -> tuple[int, int]:
        """Height and width of the upright image."""
        return self.size if self.orientation < 5 else self.size[::-1]


def decode(
    data: bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    min_size: tuple[int, int] | None = None,
    header: JpegHeader | None = None,
) -> np.ndarray:
    """The first image of a file, upright, as RGB.

    The orientation in EXIF or XMP is applied, transparency is laid on white, 16 bits and
    floating-point numbers from 0 to 1 are scaled to 8, and ICC profiles are ignored.

    Args:
        data: the content of a JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000, PNM, ... file, or
            a HEIC or JPEG XL file where its plugin is installed.
        max_pixels: more pixels than this are refused, from the header, before decoding.
        min_size: (height, width) of the upright image: a JPEG may be decoded at a half, a quarter
            or an eighth of its size, as long as neither side falls below. Faster for big images,
            but not the pixels of a full decode and a resize.
        header: of `data`, if it has been read already.

    Returns:
        (H, W, 3) uint8, contiguous and writable.

    Raises:
        BadImage: the bytes are not an image, are damaged or truncated, or are too big.
    """
    if not data:
        raise BadImage("empty file")
    if data[:2] == b"\xff\xd8":
        pixels = _decode_jpeg(data, header or jpeg_header(data), max_pixels, min_size)
        if pixels is not None:
            return pixels
    kind = format_of(data)
    formats = _formats_of(kind)
    turned = jpeg_xl.header(data) if kind == "JPEG XL" else None
    if turned is not None:
        _check_size(*turned.size, max_pixels)  # its plugin decodes as it opens
    directory = tiff.Tiff.of(data) if kind == "TIFF" else None
    if directory is not None and directory.is_raw:
        raise BadImage(OTHERS["camera raw"])
    # Whatever PIL raises on damaged bytes is the file's fault: its plugins let through ValueError,
    # SyntaxError, struct.error, KeyError, ZeroDivisionError and more.
    try:
        if directory is not None and directory.is_float and not directory.is_float_of_pil:
            return _float_tiff(data, directory, max_pixels)
        _silence_pil()
        image = Image.open(io.BytesIO(data), formats=formats)
        pixels = _loaded(image, max_pixels)
        if turned is not None and turned.orientation != 1 and not getattr(image, "jpeg", False):
            return pixels  # its reader has turned it
        if kind == "HEIC":
            return upright(pixels, _heic_orientation(data, image))
        return upright(pixels, pil_orientation(image))
    except BadImage:
        raise
    except Exception as error:
        if directory is not None and isinstance(error, UnidentifiedImageError):
            return _float_tiff(data, directory, max_pixels)
        raise BadImage(_reason(error, data, max_pixels)) from error


def jpeg_header(data: bytes) -> JpegHeader | None:
    """The header of a JPEG; None for anything else."""
    if data[:2] != b"\xff\xd8":
        return None
    try:
        height, width, colorspace, subsampling = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return JpegHeader((int(height), int(width)), colorspace, subsampling, jpeg_orientation(data))


def shrinks(size: tuple[int, int], min_size: tuple[int, int]) -> bool:
    """True if `decode` gives less than `size` (height, width) of a JPEG for this `min_size`."""
    return _shrunk(size, min_size) != size


def _shrunk(size: tuple[int, int], min_size: tuple[int, int]) -> tuple[int, int]:
    """The smallest size not below `min_size` at which decoding is fast.

    libjpeg-turbo has vector code for the whole, a half and a quarter: three quarters take longer
    than the whole, and three eighths longer than a half.
    """
    for divisor in (8, 4, 2):
        height, width = (-(-side // divisor) for side in size)
        if height >= min_size[0] and width >= min_size[1]:
            return height, width
    return size


def from_pil(image: Image.Image) -> np.ndarray:
    """A PIL image as `decode` would give it: (H, W, 3) uint8, upright, on white.

    Raises:
        BadImage: it is too big, or its pixels have no defined meaning in RGB.
        Exception: any that PIL raises while it loads a lazily opened file.
    """
    pixels = _loaded(image, MAX_PIXELS)
    return upright(pixels, pil_orientation(image))


def _loaded(image: Image.Image, max_pixels: int) -> np.ndarray:
    """The pixels of a PIL image, (H, W, 3) uint8, not yet turned by `pil_orientation`."""
    _check_size(image.height, image.width, max_pixels)
    _silence_pil()
    image.load()  # TIFF turns itself upright here, and forgets its orientation
    return _rgb(image)


def _heic_orientation(data: bytes, image: Image.Image) -> int:
    """The orientation of pixels from HEIC's reader.

    It applies boxes of the file alone, and notes the orientation of EXIF or XMP.
    """
    if b"irot" in data or b"imir" in data:
        return 1
    value = image.info.get("original_orientation")
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def load_image(source: ImageSource, limits: Limits = NO_LIMITS) -> np.ndarray:
    """An image as (H, W, 3) uint8 RGB, from a path or URI, the content of a file, or PIL.

    Raises:
        BadImage: it is no image; the message names the path where there is one.
        StorageError: the path or URI cannot be read, or its file exceeds the limits.
    """
    if isinstance(source, Image.Image):
        try:
            return from_pil(source)
        except BadImage:
            raise
        except Exception as error:  # as in `decode`
            raise BadImage(_reason(error, b"")) from error
    if isinstance(source, bytes):
        return decode_given(source)
    uri = os.fspath(source)
    try:
        return decode_given(read_bytes(uri, limits=limits, regular=True))
    except BadImage as error:
        raise BadImage(f"{public(uri)}: {error}") from error


def decode_given(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """`decode` for an image that is given alone, where settings of lists do not apply.

    Raises:
        BadImage: as by `decode`; names no setting.
    """
    try:
        return decode(data, max_pixels=max_pixels)
    except BadImage as error:
        raise BadImage(str(error).replace(TRUNCATED, _AGAIN)) from error


def _decode_jpeg(
    data: bytes,
    header: JpegHeader | None,
    max_pixels: int,
    min_size: tuple[int, int] | None,
) -> np.ndarray | None:
    """The pixels by simplejpeg, or None where PIL must decide."""
    if header is None:
        return None
    _check_size(*header.size, max_pixels)
    if header.colorspace not in _JPEG_FAST:
        return None
    least = header.size
    if min_size is not None:
        least = _shrunk(header.size, min_size if header.orientation < 5 else min_size[::-1])
    try:
        pixels = simplejpeg.decode_jpeg(
            data, "RGB", min_height=least[0], min_width=least[1], min_factor=1
        )
    except ValueError:
        return None  # strict: it refuses some damage that PIL forgives
    return upright(pixels, header.orientation)


def _formats_of(kind: str) -> tuple[str, ...]:
    """The formats for PIL to try on a file of this kind; a BadImage where it is not read."""
    if kind in OTHERS:
        raise BadImage(OTHERS[kind])
    if not pillow_plugins.is_plugin_format(kind):
        return _FORMATS
    if not pillow_plugins.has_plugin(kind):
        raise BadImage(f"a {kind} image; {pillow_plugins.missing(kind)}")
    try:
        return (pillow_plugins.register(kind),)
    except Exception as error:  # whatever a plugin that does not load here raises
        raise BadImage(
            f"a {kind} image, whose reader does not load ({type(error).__name__}: "
            f"{str(error)[:60]}); convert it to PNG or JPEG"
        ) from error


def _float_tiff(data: bytes, directory: tiff.Tiff, max_pixels: int) -> np.ndarray:
    """The pixels of a TIFF that PIL does not read, as `decode` gives them."""
    _check_size(*directory.size, max_pixels)
    try:
        values = tiff.float_pixels(data, directory)
    except tiff.NotReadable as error:
        raise BadImage(str(error)) from None
    return upright(_unit(values), directory.orientation)


def _silence_pil() -> None:
    """Ignore PIL's warnings (about palettes, metadata, sizes) from now on.

    `warnings.catch_warnings` is not safe in threads, so the filter stays once it is there; it is
    looked for each time, because others' `catch_warnings` may take it away again.
    """
    if _PIL_FILTER not in warnings.filters:
        with _filter_lock:
            warnings.filterwarnings("ignore", module=r"PIL\b")


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise BadImage(
            f"{height * width / 1e6:.4g} megapixels exceed the limit of {max_pixels / 1e6:.4g}"
        )
    if height * width == 0:
        raise BadImage("no pixels")


def _rgb(image: Image.Image) -> np.ndarray:
    """The pixels of a loaded PIL image of any mode; (H, W, 3) uint8, not yet upright."""
    mode = image.mode
    if mode.startswith("I;16"):
        return _grey(np.asarray(image))
    if mode == "I":  # 32 bits; PNM and some TIFF keep 16 bits in them
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise BadImage(
                "32-bit pixels outside 0 to 65535, for which white is not defined; write 8 or 16 "
                "bits"
            )
        return _grey(values)
    if mode == "F":
        return _unit(np.asarray(image)[:, :, None])
    if image.has_transparency_data:
        image = (image.convert("LA") if mode == "La" else image).convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _unit(values: np.ndarray) -> np.ndarray:
    """`values` (H, W, 1 or 3) from 0 to 1 as (H, W, 3) uint8."""
    if not (values.min() >= 0 and values.max() <= 1):  # so written for NaN
        raise BadImage(
            "floating-point pixels outside 0 to 1, for which white is not defined; divide them by "
            "their white, or write 8 bits"
        )
    pixels = np.rint(values * np.float32(255)).astype(np.uint8)
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def _grey(values: np.ndarray) -> np.ndarray:
    """Grey `values` (H, W) from 0 to 65535 as (H, W, 3) uint8."""
    grey = np.rint(values.astype(np.float32) * np.float32(255 / 65535)).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _reason(error: Exception, data: bytes, max_pixels: int = MAX_PIXELS) -> str:
    """A short reason for what PIL raised."""
    if isinstance(error, Image.DecompressionBombError):
        pixels = re.search(r"\d+", str(error))
        size = f"{int(pixels[0]) / 1e6:.4g} megapixels" if pixels else "its pixels"
        if max_pixels < 2 * (Image.MAX_IMAGE_PIXELS or 0):
            return f"{size} exceed the limit of {max_pixels / 1e6:.4g}"
        return f"{size} exceed PIL's limit of {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.4g}"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    name = format_of(data)
    if isinstance(error, UnidentifiedImageError):
        if not name:
            return f"not an image (starts with {data[:5]!r})"
        if name in _OPTIONAL and _OPTIONAL[name] not in Image.OPEN:
            return f"a {name} image, which this PIL does not read; pip install -U pillow"
        return f"damaged or truncated {name} header"
    text = " ".join(str(error).split())
    if "truncated" in text.lower():
        fix = TRUNCATED if name == "JPEG" else _AGAIN
        return f"truncated{name and ' '}{name}; {fix}"
    return f"damaged ({type(error).__name__}: {text[:80]})" if text else "damaged"
