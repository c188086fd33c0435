"""Brand logos across icon sets: the class is the brand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from set_choice import Drawing
from set_images import aspect, from_svg, on_white
from set_packages import Package, Packages, npm

SIMPLE = npm("simple-icons", "16.37.0", "CC0-1.0")
COINS = npm("cryptocurrency-icons", "0.18.1", "CC0-1.0")
TINY = npm("super-tiny-icons", "0.6.0", "MIT")
LOBE = npm("@lobehub/icons-static-svg", "1.95.1", "MIT")
TOKENS = npm("@iconify-json/token-branded", "1.2.45", "MIT")

# The order is the one in which drawings are kept: of two that are the same the first stays.
BRANDS = (
    npm("@iconify-json/logos", "1.2.19", "CC0-1.0"),
    npm("@iconify-json/devicon", "1.2.68", "MIT"),
    npm("@iconify-json/skill-icons", "1.2.4", "MIT"),
    npm("@iconify-json/fa7-brands", "1.2.4", "CC-BY-4.0"),
    npm("@iconify-json/bxl", "1.2.4", "MIT"),
    npm("@iconify-json/cib", "1.2.3", "CC0-1.0"),
    npm("@iconify-json/entypo-social", "1.2.3", "CC-BY-SA-4.0"),
    npm("@iconify-json/streamline-logos", "1.2.0", "CC-BY-4.0"),
)
# Sets of types of files: they name also what is no brand, and only add to brands of the others.
FILES = (
    npm("@iconify-json/vscode-icons", "1.2.97", "MIT"),
    npm("@iconify-json/material-icon-theme", "1.2.70", "MIT"),
    npm("@iconify-json/catppuccin", "1.2.17", "MIT"),
    npm("@iconify-json/file-icons", "1.2.2", "ISC"),
)
PACKAGES: tuple[Package, ...] = (SIMPLE, TINY, LOBE, COINS, TOKENS, *BRANDS, *FILES)

WIDEST = 1.9
"""Aspect ratio from which on a drawing is a name in letters rather than a sign."""

# What names of icons add to the name of the brand.
_STYLE = re.compile(
    r"(-(icon|original|plain|dark|light|color|with-circle|background))+$"
    r"|-logo(-\d+)?(-block|-solid)?$"
)
_SKIPPED = re.compile(
    r"-(wordmark|text|brand|brand-color|line)$|^folder|^file-type-light-|^square-|-square$|-light$"
    r"|-(alt|old)$"
)


def drawings(packages: Packages) -> Iterator[Drawing]:
    """Drawings of all brands, those of one set alone too."""
    brands = Brands(packages.path(SIMPLE) / "package")
    found = [*_brand_drawings(packages, brands)]
    yield from found
    known = {drawing.label for drawing in found}
    for package in FILES:
        for drawing in _iconify(packages, package, brands):
            if drawing.label in known:
                yield drawing


def _brand_drawings(packages: Packages, brands: Brands) -> Iterator[Drawing]:
    for package in BRANDS[:3]:
        yield from _iconify(packages, package, brands)
    yield from _folder(packages.path(TINY) / "package/images/svg", "super-tiny-icons", brands)
    yield from _folder(packages.path(LOBE) / "package/icons", "lobehub", brands)
    yield from _coins(packages, brands)
    yield from brands.drawings()
    for package in BRANDS[3:]:
        yield from _iconify(packages, package, brands)


class Brands:
    """Names of brands, and the drawings of simple-icons in the brands' own colours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        entries = json.loads((folder / "data/simple-icons.json").read_text(encoding="utf-8"))
        self.colours: dict[str, str] = {}
        self.names: dict[str, str] = {}
        for entry in entries:
            slug = entry.get("slug") or _slug(entry["title"])
            self.colours[slug] = entry["hex"]
        for entry in entries:
            slug = entry.get("slug") or _slug(entry["title"])
            for name in (slug, entry["title"], *entry.get("aliases", {}).get("aka", ())):
                self.names.setdefault(plain(name), slug)

    def label(self, name: str) -> str:
        name = plain(_STYLE.sub("", name))
        return self.names.get(name, name)

    def drawings(self) -> Iterator[Drawing]:
        """One drawing a brand; brands that are all but white are drawn in black."""
        for slug, colour in sorted(self.colours.items()):
            path = self.folder / "icons" / f"{slug}.svg"
            if not path.exists():
                continue
            if min(int(colour[at : at + 2], 16) for at in (0, 2, 4)) > 200:
                colour = "000000"
            text = path.read_text(encoding="utf-8").replace("<svg ", f'<svg fill="#{colour}" ', 1)
            yield from _drawn(slug, "simple-icons", text)


def plain(name: str) -> str:
    spelt = name.lower().replace("+", "plus").replace("#", "sharp").replace("&", "and")
    return re.sub(r"[^a-z0-9]", "", spelt)


def _slug(title: str) -> str:
    spelt = title.lower().replace(".", "dot").replace("+", "plus").replace("&", "and")
    return re.sub(r"[^a-z0-9]", "", spelt)


def _drawn(label: str, source: str, text: str) -> Iterator[Drawing]:
    if label:
        yield Drawing(label, source, partial(_draw, text))


def _draw(text: str) -> Image.Image | None:
    image = from_svg(text)
    return on_white(image) if image is not None and aspect(image) < WIDEST else None


def _iconify(packages: Packages, package: Package, brands: Brands) -> Iterator[Drawing]:
    source = package.name.rpartition("/")[2]
    table = json.loads((packages.path(package) / "package/icons.json").read_text(encoding="utf-8"))
    icons = table["icons"]
    for name in sorted(icons):
        spelt = name.removeprefix("file-type-")
        if _SKIPPED.search(name) or f"{name}-icon" in icons:
            continue
        label = brands.label(spelt)
        yield from _drawn(label, source, iconify_svg(table, name))


def iconify_svg(table: dict, name: str) -> str:
    """The SVG document of an icon of an Iconify file, black where it has no colour."""
    icon = table["icons"][name]
    box = [
        icon.get(key, table.get(key, default))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    ]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'color="#000" width="{box[2]}" height="{box[3]}" '
        f'viewBox="{" ".join(map(str, box))}">{icon["body"]}</svg>'
    )


def _folder(folder: Path, source: str, brands: Brands) -> Iterator[Drawing]:
    for path in sorted(folder.glob("*.svg")):
        if not _SKIPPED.search(path.stem):
            label = brands.label(path.stem.replace("_", "-"))
            yield from _drawn(label, source, path.read_text(encoding="utf-8"))


def _coins(packages: Packages, brands: Brands) -> Iterator[Drawing]:
    """Currencies by their names: two sets may give one symbol to different ones."""
    folder = packages.path(COINS) / "package"
    text = (packages.path(TOKENS) / "package/icons.json").read_text(encoding="utf-8")
    tokens = json.loads(text)
    for coin in json.loads((folder / "manifest.json").read_text(encoding="utf-8")):
        symbol, label = coin["symbol"].lower(), brands.label(coin["name"])
        path = folder / "svg/color" / f"{symbol}.svg"
        if path.exists():
            yield from _drawn(label, "cryptocurrency-icons", path.read_text(encoding="utf-8"))
        if symbol in tokens["icons"]:
            yield from _drawn(label, "token-branded", iconify_svg(tokens, symbol))
