"""Formats of files, by their first bytes and by their names."""

from __future__ import annotations

import os

ENOUGH = 2048
"""Bytes from the start of a file that are enough to find its format."""

_BEGINNINGS = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",  # of more than 4 GB
    b"MM\0+": "TIFF",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\1\0": "ICO",
    b"DDS ": "DDS",
    b"qoif": "QOI",
    b"8BPS": "Photoshop",
    b"v/1\1": "OpenEXR",
    b"#?RADIANCE": "Radiance",
    b"#?RGBE": "Radiance",
    b"SIMPLE  =": "FITS",
    b"\x89HDF": "HDF5",
    b"\x93NUMPY": "NumPy",
    b"FUJIFILMCCD-RAW": "camera raw",
    b"IIRO": "camera raw",
    b"IIU\0": "camera raw",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript",
    b"PK\3\4": "ZIP",
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"SQLite format 3\0": "SQLite",
    b"\x1f\x8b": "gzip",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "RAR",
    b"\x1aE\xdf\xa3": "video",
    b"FLV": "video",
    b"\0\0\1\xba": "video",
    b"version https://git-lfs": "git-lfs pointer",
    b"/annex/objects/": "git-annex pointer",
    b"\0\5\x16\7": "AppleDouble",
}

# Brands of ISO base media files; those of films are many, and are what is left.
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm"), "HEIC"),
    **{b"crx ": "camera raw", b"jxl ": "JPEG XL"},
}
_ANY_CODEC = (b"mif1", b"msf1", b"mif2", b"miaf")  # brands that leave the codec to the others

_SUFFIXES = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PNM"),
    **dict.fromkeys((".jp2", ".j2k"), "JPEG 2000"),
    **dict.fromkeys((".heic", ".heif"), "HEIC"),
    **{".png": "PNG", ".webp": "WebP", ".gif": "GIF", ".bmp": "BMP"},
    **{".avif": "AVIF", ".jxl": "JPEG XL"},
}

IMAGE_SUFFIXES = tuple(_SUFFIXES)
"""Endings of the names of images, in lower case."""

READ = frozenset(
    [
        *("JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF", "AVIF", "JPEG 2000"),
        *("PNM", "ICO", "DDS", "QOI"),
    ]
)
"""Formats that are read without a plugin."""

_AGAIN = "download or export the image again"
_CONVERT = "convert it to PNG or JPEG"

OTHERS = {
    "SVG": "an SVG drawing, which has no pixels; render it to PNG",
    "PDF": "a PDF document; export its pages as images",
    "PostScript": "a PostScript drawing, which has no pixels; render it to PNG",
    "HTML": f"an HTML page, often the error page of a web server; {_AGAIN}",
    "XML": f"an XML text, often the error message of an object store; {_AGAIN}",
    "JSON": f"a JSON text, often the error message of a web server; {_AGAIN}",
    "git-lfs pointer": "a git-lfs pointer instead of the image; fetch it with: git lfs pull",
    "git-annex pointer": "a git-annex pointer instead of the image; fetch it with: git annex get",
    "AppleDouble": "metadata of macOS (AppleDouble), not an image; remove the file",
    "zeros": f"nothing but zero bytes; {_AGAIN}",
    "video": "a video; extract its frames as images",
    "camera raw": "a camera raw file; develop it to JPEG, PNG or TIFF",
    "Photoshop": f"a Photoshop file; {_CONVERT}",
    "OpenEXR": f"an OpenEXR image of floating-point pixels; {_CONVERT}",
    "Radiance": f"a Radiance HDR image of floating-point pixels; {_CONVERT}",
    "DICOM": f"a DICOM file; {_CONVERT}",
    "FITS": f"a FITS file; {_CONVERT}",
    "HDF5": f"an HDF5 file; {_CONVERT}",
    "NumPy": f"a NumPy array; {_CONVERT}",
    "Parquet": "a Parquet table; name it as a list, with the suffix .parquet",
    "Arrow": "an Arrow table; name it as a list, with the suffix .arrow",
    "SQLite": "an SQLite database; export its images, or a table as CSV",
    "ZIP": "a ZIP archive; name images in it as ARCHIVE.zip/PATH",
    "tar": "a tar archive; unpack it, or name it as data.train with data.format=webdataset",
    "gzip": "a gzip file; unpack it",
    "7z": "a 7z archive; unpack it",
    "RAR": "a RAR archive; unpack it",
}
"""Formats that are not read: descriptions with the fix."""


def format_of(data: bytes) -> str:
    """The format by the first `ENOUGH` bytes of a file, or more; "" if unknown."""
    if data[:4] == b"RIFF":
        return {b"WEBP": "WebP", b"AVI ": "video"}.get(data[8:12], "")
    if data[4:8] == b"ftyp":
        return _of_brands(data)
    if data[:1] == b"P" and data[1:2] in b"123456" and data[2:3].isspace():
        return "PNM"
    found = next((name for start, name in _BEGINNINGS.items() if data.startswith(start)), "")
    if found:
        return "camera raw" if found == "TIFF" and data[8:10] == b"CR" else found
    if data[128:132] == b"DICM":
        return "DICOM"
    if data[257:262] == b"ustar":
        return "tar"
    if len(data) >= 16 and not data[:ENOUGH].strip(b"\0"):
        return "zeros"
    return _of_text(data[:ENOUGH])


def list_fault(data: bytes) -> str | None:
    """The fault of a file that is no list, by its first `ENOUGH` bytes, with the fix; else None."""
    found = format_of(data)
    if found in ("HTML", "XML", "SVG"):
        return f"{found}, often the error message of a server; download the list again"
    if found == "git-lfs pointer":
        return "a git-lfs pointer instead of the list; fetch it with: git lfs pull"
    if found == "git-annex pointer":
        return "a git-annex pointer instead of the list; fetch it with: git annex get"
    try:
        # A list may begin as a format does, with BM or P1, but not with bytes of none of its texts.
        binary = not data[: ENOUGH - 4].decode("utf-8", "strict").isprintable() and b"\0" in data
    except UnicodeDecodeError as error:
        binary = error.start < ENOUGH - 8
    if not binary or not found:
        return None
    if found == "ZIP" and (b"[Content_Types].xml" in data or b"_rels/" in data):
        return "an office document; save the sheet as CSV"
    if found in (*READ, "HEIC", "JPEG XL"):
        return f"a picture ({found}); name a list of images, or the folder above them"
    if found in ("Parquet", "Arrow", "ZIP"):
        return f"{found} data; give the file the suffix .{found.lower()}"
    if found == "NumPy":
        return (
            "NumPy data; write a list with path and label, or measure the vectors in it with: "
            "lookalike evaluate --embeddings FILE.npy --labels FILE.txt"
        )
    return f"{found} data; write a list with path and label, or a table as CSV or Parquet"


def format_of_name(name: str) -> str:
    """The format by a file's suffix; "" if unknown."""
    return _SUFFIXES.get(os.path.splitext(name)[1].lower(), "")


def _of_brands(data: bytes) -> str:
    """The format of an ISO base media file, by its brands."""
    major = data[8:12]
    if major not in _ANY_CODEC:
        return _BRANDS.get(major, "video")
    end = min(int.from_bytes(data[:4], "big"), 256)
    others = [data[at : at + 4] for at in range(16, end, 4)]
    return next((_BRANDS[brand] for brand in others if brand in _BRANDS), "HEIC")


def _of_text(head: bytes) -> str:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<svg", b"<?xml", b"<!--", b"<!doctype", b"<html", b"<head", b"<body")):
        places = {name: text.find(mark) for name, mark in (("SVG", b"<svg"), ("HTML", b"<html"))}
        found = {name: place for name, place in places.items() if place >= 0}
        if found:
            return min(found, key=found.__getitem__)
        if b"<!doctype svg" in text:
            return "SVG"
        return "XML" if text.startswith(b"<?xml") else "HTML"
    if text[:1] == b"{" and b'"' in text[:64]:
        return "JSON"
    return ""
