"""What kind of image a file is: by its first bytes, and by its name."""

from __future__ import annotations

import os

_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC"}

_BEGINNINGS = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"%PDF": "PDF",
    b"PK\3\4": "ZIP",
    b"<svg": "SVG",
}

_SUFFIXES = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PNM"),
    **{".png": "PNG", ".webp": "WebP", ".gif": "GIF", ".bmp": "BMP"},
    **{".avif": "AVIF", ".jp2": "JPEG 2000", ".heic": "HEIC"},
}


def format_of(data: bytes) -> str:
    """The format that the first bytes of a file tell; "" where they tell none."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "")
    if data[:1] == b"P" and data[1:2] in b"123456" and data[2:3].isspace():
        return "PNM"
    head = data[:256].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "HTML"
    return next((name for start, name in _BEGINNINGS.items() if data.startswith(start)), "")


def format_of_name(name: str) -> str:
    """The format that a file's suffix promises; "" where it promises none."""
    return _SUFFIXES.get(os.path.splitext(name)[1].lower(), "")
