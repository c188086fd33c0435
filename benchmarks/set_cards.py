"""Playing cards across decks: the class is the face, of 52."""

from __future__ import annotations

import io
import subprocess
import sysconfig
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from requirements import INSTALL
from set_choice import Drawing
from set_images import drawn_part, on_white, svg_on_white
from set_packages import Package, Packages, debian, npm

KDE = debian("kdegames-card-data-kf5", "4:22.12.3-1", "GPL-2.0+ and others (its copyright file)")
GNOME = debian("gnome-cards-data", "1:3.22.23-1", "GPL-3.0+ and others (its copyright file)")
AISLERIOT = debian("aisleriot", "1:3.22.23-1", "GPL-3.0+ and others (its copyright file)")
REACT = npm("@heruka_urgyen/react-playing-cards", "0.5.0", "MIT")
STANDARD = npm("@younestouati/playing-cards-standard-deck", "3.0.0", "LGPL-3.0")
PACKAGES: tuple[Package, ...] = (KDE, GNOME, AISLERIOT, REACT, STANDARD)

SUITS = {"club": "C", "diamond": "D", "heart": "H", "spade": "S"}
RANKS = {"1": "A", **{str(n): str(n) for n in range(2, 11)}, "jack": "J", "queen": "Q", "king": "K"}
FACES = {
    name: f"{rank}{suit}"
    for spelt, suit in SUITS.items()
    for number, rank in RANKS.items()
    for name in (f"{spelt}_{number}", f"{number}_{spelt}")
}
"""Faces by the names that elements of a deck have; decks put the suit first or last."""

_UPRIGHT = (1.2, 1.8)  # height by width; a deck names other things as its cards, another lies
_CARD = 180  # height of a card, in pixels, in the rendering that it is cut from


def drawings(packages: Packages) -> Iterator[Drawing]:
    """Every face of every deck."""
    decks = [
        *sorted((packages.path(KDE) / "usr/share/carddecks").glob("*/*.svgz")),
        *sorted((packages.path(GNOME) / "usr/share/aisleriot/cards").glob("*.svgz")),
        *sorted((packages.path(AISLERIOT) / "usr/share/aisleriot/cards").glob("*.svgz")),
    ]
    for path in decks:
        deck = path.parent.name if path.parent.name != "cards" else path.stem
        for face, image in deck_faces(path):
            yield Drawing(face, deck, partial(on_white, image))
    images = packages.path(REACT) / "package/src/images"
    for folder in sorted(path for path in images.iterdir() if path.is_dir()):
        for path in sorted(folder.glob("*.svg")):
            yield from _single(path.stem.replace("T", "10"), f"react-{folder.name}", path)
    for path in sorted((packages.path(STANDARD) / "package/cards").glob("*.svg")):
        rank = path.stem[:-1]
        rank = {"1": "A", "11": "J", "12": "Q", "13": "K"}.get(rank, rank)
        yield from _single(rank + path.stem[-1].upper(), "standard-deck", path)


def deck_faces(path: Path) -> Iterator[tuple[str, Image.Image]]:
    """The faces that an SVG file of a whole deck names, cut out of one rendering."""
    tool = Path(sysconfig.get_path("scripts")) / "resvg"
    if not tool.exists():
        raise SystemExit(f"error: resvg-cli is not installed: {INSTALL}")

    def resvg(*arguments: str) -> bytes:
        command = [str(tool), *arguments]
        return subprocess.run(command, capture_output=True, check=False).stdout

    boxes: dict[str, list[float]] = {}
    for line in resvg("--query-all", str(path)).decode().splitlines():
        name, *box = line.rsplit(",", 4)
        if name in FACES:
            boxes[FACES[name]] = [float(number) for number in box]
    if not boxes:
        return
    zoom = _CARD / max(box[3] for box in boxes.values())
    whole = Image.open(io.BytesIO(resvg("-z", f"{zoom:.4f}", str(path), "-c")))
    for face, (left, top, width, height) in sorted(boxes.items()):
        corners = (left, top, left + width, top + height)
        part = drawn_part(whole.crop(tuple(round(zoom * place) for place in corners)))
        if part is not None and _UPRIGHT[0] < part.height / part.width < _UPRIGHT[1]:
            yield face, part


def _single(face: str, deck: str, path: Path) -> Iterator[Drawing]:
    if face in FACES.values():
        yield Drawing(face, deck, partial(svg_on_white, path.read_text(encoding="utf-8")))
