"""Decoding the part of a JPEG that is used, and not the rest of it.

What lies below is left away by a header that tells of fewer rows: a decoder stops there. What lies
above must be read, as each block of a JPEG says only how it differs from the one before, but need
not be made into pixels: so does nvImageCodec (on the CPU; its `libjpeg_turbo` codec), where it is
installed and enough lies above; simplejpeg, PIL and torchvision do not. What lies to the left and
right costs the same with all of them. The pixels are those of `decode`, bit for bit, and whether
a file is good does not depend on it either.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import NamedTuple

import numpy as np
import simplejpeg

from lookalike.data.decoding.decode import MAX_PIXELS, BadImage, JpegHeader, decode
from lookalike.data.decoding.orientation import lying, upright

Box = tuple[int, int, int, int]
"""top, left, height, width in pixels."""

_log = logging.getLogger(__name__)

# From so many pixels below on a shorter picture is worth it: each saves 3 ns, and to look through
# the file twice, as the check here and the decoder's search for its end do, takes 25 us.
_BELOW = 2**14

# From so many pixels above on the codec is: each saves 1.3 ns, and the codec takes 50 us more.
_ABOVE = 2**16

# Upsampled colours take from the rows beside; the last row of a picture has none below.
_MARGIN = 2

# libjpeg-turbo's crop of one column of a picture with halved colours has other pixels.
_LEAST_SIDE = 8

_SUBSAMPLINGS = ("444", "422", "420")

_Crop = Callable[[bytes, Box], np.ndarray | None]

_found: list[_Crop | None] = []
_lock = threading.Lock()


def decode_part(data: bytes, box: Box, header: JpegHeader) -> np.ndarray:
    """What `decode(data)` gives at `box`, pixel for pixel, with less work where that can be.

    Args:
        data: the content of a JPEG file.
        box: inside of the upright picture.
        header: of `data`.

    Returns:
        (height, width, 3) uint8; may be a view of a larger picture.

    Raises:
        BadImage: see `decode`.
    """
    pixels = _part(data, box, header)
    if pixels is not None:
        return pixels
    top, left, height, width = box
    pixels = decode(data, header=header)[top : top + height, left : left + width]
    if pixels.shape[:2] != (height, width):
        raise BadImage("damaged (its header gives another size than its pixels have)")
    return pixels


def available() -> bool:
    """Whether parts can be decoded here; says why not, once in a process."""
    return _backend() is not None


def _part(data: bytes, box: Box, header: JpegHeader) -> np.ndarray | None:
    """The part by itself, or None where all must be decoded."""
    height, width = header.size
    top, left, rows, columns = stored = lying(box, header.size, header.orientation)
    last = min(top + rows + _MARGIN, height)
    above, below = top * width, (height - last) * width
    if (above < _ABOVE and below < _BELOW) or height * width > MAX_PIXELS:
        return None
    if header.colorspace != "YCbCr" or header.subsampling not in _SUBSAMPLINGS:
        return None
    scan = _scan(data)
    if scan is None:
        return None
    pixels = None
    if above >= _ABOVE and min(rows, columns) >= _LEAST_SIDE:
        crop = _backend()
        pixels = None if crop is None else crop(data, stored)
    if pixels is None and below >= _BELOW:
        pixels = _first_rows(data, last, width, scan)
        pixels = None if pixels is None else pixels[top : top + rows, left : left + columns]
    return None if pixels is None else upright(pixels, header.orientation)


def _first_rows(data: bytes, rows: int, width: int, scan: _Scan) -> np.ndarray | None:
    """The first rows of the stored pixels, (rows, width, 3); None where they cannot be had."""
    told = scan.height
    shorter = b"".join((data[:told], rows.to_bytes(2, "big"), data[told + 2 :]))
    try:
        # Not strict: the bits of the other rows are too many before the end marker.
        pixels = simplejpeg.decode_jpeg(shorter, "RGB", strict=False)
    except ValueError:
        return None
    return pixels if pixels.shape == (rows, width, 3) else None


class _Scan(NamedTuple):
    """Where things stand in a JPEG of one scan.

    Attributes:
        height: offset of the two bytes that tell how many rows there are.
        start: offset of the first bits of the scan.
    """

    height: int
    start: int


def _scan(data: bytes) -> _Scan | None:
    """The scan of a JPEG that has one, and in it no marker to the end of the file; else None.

    Of such a file nothing is refused for what lies outside of the part: what the bits of a scan
    say is never an error to PIL, only that they end too early, or another marker among them.
    """
    scan = _only_scan(data)
    if scan is None or data[-2:] != b"\xff\xd9":
        return None
    bits = np.frombuffer(data, np.uint8, offset=scan.start)
    # 0xff is followed by 0 everywhere but in the end marker; NumPy looks without the GIL.
    alone = int(np.count_nonzero((bits[:-1] == 0xFF) & (bits[1:] != 0))) == 1
    return scan if alone else None


def _only_scan(data: bytes) -> _Scan | None:
    """The scan of a baseline JPEG of three components in one scan; else None."""
    position, height = 2, None
    while data[position : position + 1] == b"\xff":
        marker = data[position + 1] if position + 1 < len(data) else 0
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xC0:
            height = position + 5 if data[position + 4] == 8 else None  # bits
        elif marker == 0xDD and data[position + 4 : position + 6] != b"\0\0":  # restarts
            return None
        elif marker == 0xDA:
            if height is None or data[position + 4] != 3:
                return None
            return _Scan(height, position + 2 + length)
        elif not (0xE0 <= marker <= 0xEF or marker in (0xC4, 0xDB, 0xDD, 0xFE)):
            return None  # another kind of JPEG, or filling
        position += 2 + length
    return None


def _backend() -> _Crop | None:
    """The codec, looked for once."""
    if not _found:
        with _lock:
            if not _found:
                _found.append(_load())
    return _found[0]


def _load() -> _Crop | None:
    """The codec, if it is installed and gives the pixels that simplejpeg gives."""
    try:
        crop = _nvimgcodec()
        wrong = _first_wrong(crop)
    except ImportError:
        _log.info(
            "what lies above the crop of a JPEG is decoded too, as nvidia-nvimgcodec is not "
            "installed: pip install 'lookalike[crops]' (the same pixels, faster)"
        )
        return None
    except Exception as error:  # whatever a codec that does not work here raises
        wrong = f"{type(error).__name__}: {error}"
    if wrong is not None:
        _log.warning(
            "what lies above the crop of a JPEG is decoded too, as nvimgcodec does not work here: "
            "%s",
            wrong,
        )
        return None
    return crop


def _nvimgcodec() -> _Crop:
    nvimgcodec = _import_quietly()
    backends = [nvimgcodec.Backend(nvimgcodec.BackendKind.CPU_ONLY)]
    params = nvimgcodec.DecodeParams(apply_exif_orientation=False)
    here = threading.local()  # a decoder serves one thread

    def crop(data: bytes, box: Box) -> np.ndarray | None:
        if not hasattr(here, "decoder"):
            here.decoder = nvimgcodec.Decoder(
                device_id=nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY,
                max_num_cpu_threads=1,
                backends=backends,
                options=":fancy_upsampling=1 :fast_idct=0",  # as PIL and simplejpeg
            )
        top, left, height, width = box
        region = nvimgcodec.Region(top, left, top + height, left + width)
        stream = nvimgcodec.CodeStream(data).get_sub_code_stream(region=region)
        image = here.decoder.decode(stream, params=params)
        if image is None:
            return None
        pixels = np.asarray(image)
        return pixels if pixels.shape == (height, width, 3) else None

    return crop


def _import_quietly() -> ModuleType:
    """The package with the one codec that is used here.

    As it comes it loads all of them, and complains of each that finds no CUDA library.
    """
    name, choice = "nvidia.nvimgcodec", "NVIMGCODEC_EXTENSIONS_PATH"
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(name)
    home = Path(spec.submodule_search_locations[0])
    with TemporaryDirectory() as folder:
        for file in home.glob("extensions/*jpeg_turbo_ext*"):
            Path(folder, file.name).symlink_to(file)
        chosen = os.environ.get(choice)
        try:
            os.environ[choice] = chosen or folder
            return import_module(name)
        finally:
            if chosen is None:
                del os.environ[choice]


def _first_wrong(crop: _Crop) -> str | None:
    """What is wrong with the parts of a noisy picture; None if all are right."""
    noise = np.random.default_rng(0).integers(0, 256, (83, 109, 3), dtype=np.uint8)
    for subsampling in _SUBSAMPLINGS:
        data = simplejpeg.encode_jpeg(noise, 90, "RGB", subsampling, fastdct=False)
        whole = simplejpeg.decode_jpeg(data, "RGB")
        for box in ((0, 0, 83, 109), (17, 33, 40, 50), (1, 15, 9, 8), (40, 70, 43, 39)):
            top, left, height, width = box
            part = crop(data, box)
            if part is None:
                return "it refuses a good JPEG"
            if not np.array_equal(part, whole[top : top + height, left : left + width]):
                return f"other pixels than simplejpeg's, at {subsampling} {box}"
    return None
