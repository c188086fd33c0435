"""Flags across packages: the class is the country, by its ISO code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from set_choice import Drawing
from set_images import drawn_part, on_white, svg_on_white
from set_logos import iconify_svg
from set_packages import Package, Packages, debian, npm

FLAT = npm("flag-icons", "7.5.0", "MIT")
CIRCLES = npm("circle-flags", "2.8.3", "MIT")
FLAGPACK = npm("flagpack-core", "2.1.0", "MIT")
FLAGKIT = npm("flagkit-web", "0.0.3", "MIT")
FAMFAMFAM = npm("famfamfam-flags", "1.0.0", "MIT")
SIMPLE = npm("country-flag-icons", "1.6.20", "MIT")
COUNTRIES = npm("svg-country-flags", "1.2.10", "public domain")
GOOGLE = npm("emoji-datasource-google", "16.0.0", "Apache-2.0 (images: Google)")
ISO = debian("iso-flags-png-320x240", "1.0.2-2", "public domain (its copyright file)")
TWEMOJI = npm("@iconify-json/twemoji", "1.2.5", "CC-BY-4.0")
OPENMOJI = npm("@iconify-json/openmoji", "1.2.29", "CC-BY-SA-4.0")
EMOJIONE = npm("@iconify-json/emojione", "1.2.1", "CC-BY-4.0")
EMOJIONE_1 = npm("@iconify-json/emojione-v1", "1.2.3", "CC-BY-SA-4.0")
COREUI = npm("@iconify-json/cif", "1.2.7", "CC0-1.0")
PACKAGES: tuple[Package, ...] = (
    FLAT, CIRCLES, FLAGPACK, FLAGKIT, FAMFAMFAM, SIMPLE, COUNTRIES, GOOGLE, ISO,
    TWEMOJI, OPENMOJI, EMOJIONE, EMOJIONE_1, COREUI,
)  # fmt: skip

_PAIR = re.compile(r"(1f1[ef][0-9a-f])-(1f1[ef][0-9a-f])")
_FIRST = 0x1F1E6  # the regional indicator of A


def drawings(packages: Packages) -> Iterator[Drawing]:
    """Drawings of all countries and territories with an ISO code of two letters."""
    iso = packages.path(FLAT) / "package/country.json"
    codes = {entry["code"] for entry in json.loads(iso.read_text(encoding="utf-8")) if entry["iso"]}
    for drawing in (*_files(packages), *_icons(packages)):
        if drawing.label in codes:
            yield drawing


def _files(packages: Packages) -> Iterator[Drawing]:
    for package, place in (
        (FLAT, "package/flags/4x3"),
        (CIRCLES, "package/flags"),
        (FLAGKIT, "package/svgs"),
        (FLAGPACK, "package/lib/flags/l"),
        (FAMFAMFAM, "package/dist/png"),
        (SIMPLE, "package/3x2"),
        (COUNTRIES, "package/png250px"),
        (ISO, "usr/share/iso-flags-png-320x240"),
        (GOOGLE, "package/img/google/64"),
    ):
        for path in sorted((packages.path(package) / place).iterdir()):
            code = country_of(path.stem) if package is GOOGLE else path.stem.lower()
            yield Drawing(code, "noto" if package is GOOGLE else package.name, partial(_read, path))


def _icons(packages: Packages) -> Iterator[Drawing]:
    names: dict[str, str] = {}
    for source, package in (("twemoji", TWEMOJI), ("openmoji", OPENMOJI)):
        folder = packages.path(package) / "package"
        points = json.loads((folder / "chars.json").read_text(encoding="utf-8"))
        table = _table(folder)
        for characters, name in sorted(points.items()):
            code = country_of(characters)
            if code:
                names.setdefault(name.removeprefix("flag-"), code)
                yield from _icon(code, source, table, name)
    for source, package in (("emojione", EMOJIONE), ("emojione-v1", EMOJIONE_1)):
        table = _table(packages.path(package) / "package")
        for name in sorted(table["icons"]):
            if name.startswith("flag-for-"):
                code = names.get(name.removeprefix("flag-for-"), "")
                yield from _icon(code, source, table, name)
    table = _table(packages.path(COREUI) / "package")
    for name in sorted(table["icons"]):
        yield from _icon(name, "coreui", table, name)


def _icon(code: str, source: str, table: dict, name: str) -> Iterator[Drawing]:
    if name in table["icons"]:
        yield Drawing(code, source, partial(svg_on_white, iconify_svg(table, name)))


def country_of(characters: str) -> str:
    """The ISO code of `1f1e6-1f1e9` (`ad`); "" for what is not two regional indicators."""
    match = _PAIR.fullmatch(characters)
    if not match:
        return ""
    return "".join(chr(ord("a") + int(point, 16) - _FIRST) for point in match.groups())


def _table(folder: Path) -> dict:
    table: dict = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    return table


def _read(path: Path) -> Image.Image | None:
    if path.suffix == ".svg":
        return svg_on_white(path.read_text(encoding="utf-8"))
    with Image.open(path) as image:
        part = drawn_part(image)
    return on_white(part) if part else None
