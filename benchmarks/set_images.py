"""Images of a set: drawn on white, compared, and left out where they teach or test nothing."""

from __future__ import annotations

import io
import random
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from requirements import require

require("resvg_py")
import resvg_py

SIDE = 128
"""Side of an image in pixels."""

SAME_DRAWING = 0.985
"""Cosine of the ink of two images of a class from which on the second is left out."""

SAME_PICTURE = 0.998
"""Cosine of the ink, by colour, of images of two classes from which on one class is left out."""

_THUMB = 32
_MARGIN = 0.04  # of the side, around the drawing
_BLANK = 12.0  # grey levels that the darkest pixels of a drawing differ from white
_DARKEST = 64  # pixels


@dataclass(frozen=True)
class Drawing:
    """One drawing of a thing.

    Attributes:
        label: name of the class.
        source: name of the icon set, deck or font.
        image: RGB, a square of `SIDE` pixels, on white.
        variant: tells apart drawings of one class by one source.
    """

    label: str
    source: str
    image: Image.Image
    variant: str = ""

    @property
    def name(self) -> str:
        """File name without its ending."""
        return f"{self.source}-{self.variant}" if self.variant else self.source


def from_svg(text: str) -> Image.Image | None:
    """The drawn part of an SVG document, RGBA; None where it is malformed or empty."""
    try:
        data = resvg_py.svg_to_bytes(svg_string=text, width=2 * SIDE, skip_system_fonts=True)
    except ValueError:
        return None
    return drawn_part(Image.open(io.BytesIO(data)))


def drawn_part(image: Image.Image) -> Image.Image | None:
    """The part of the image that is not transparent, RGBA; None where there is none."""
    image = image.convert("RGBA")
    box = image.getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox()
    return image.crop(box) if box else None


def aspect(image: Image.Image) -> float:
    """The longer side by the shorter."""
    return max(image.size) / min(image.size)


def on_white(image: Image.Image) -> Image.Image:
    """The image amid a white square of `SIDE` pixels, RGB."""
    image = image.convert("RGBA")
    scale = SIDE * (1 - 2 * _MARGIN) / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # On white before it is scaled: what is transparent has colours that nobody sees.
    flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    square = Image.new("RGB", (SIDE, SIDE), "white")
    place = ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2)
    square.paste(flat.resize(size, Image.Resampling.LANCZOS), place)
    return square


def is_blank(image: Image.Image) -> bool:
    """Whether there is next to nothing on the white."""
    ink = 255.0 - np.asarray(image.convert("L"), dtype=np.float32).ravel()
    return float(np.partition(ink, -_DARKEST)[-_DARKEST:].mean()) < _BLANK


def thumb(image: Image.Image, mode: str) -> np.ndarray:
    """Ink (255 minus the pixel) at 32 x 32, as a unit vector; `mode` is L or RGB."""
    small = image.convert(mode).resize((_THUMB, _THUMB), Image.Resampling.BOX)
    ink = 255.0 - np.asarray(small, dtype=np.float32).ravel()
    return np.asarray(ink / max(float(np.linalg.norm(ink)), 1e-6), dtype=np.float32)


def distinct(thumbs: np.ndarray, limit: float) -> list[int]:
    """Rows of (N, D) unit vectors to keep: each with a cosine below `limit` to those before it."""
    kept: list[int] = []
    for row in range(len(thumbs)):
        if not kept or float((thumbs[kept] @ thumbs[row]).max()) < limit:
            kept.append(row)
    return kept


def twins(labels: Sequence[str], thumbs: np.ndarray, limit: float) -> set[str]:
    """Classes to leave out since an image of theirs is also one of another class.

    Of two such classes the one with fewer images goes; of equals, the later name.
    """
    counts = {label: labels.count(label) for label in set(labels)}
    rank = {label: (-counts[label], label) for label in counts}
    gone: set[str] = set()
    names = np.asarray(labels)
    pairs: set[tuple[str, str]] = set()
    for start in range(0, len(thumbs), 1024):
        near = thumbs[start : start + 1024] @ thumbs.T >= limit
        for row, column in zip(*np.nonzero(near), strict=True):
            one, other = str(names[start + row]), str(names[column])
            if rank[one] < rank[other]:
                pairs.add((one, other))
    for keep, drop in sorted(pairs, key=lambda pair: (rank[pair[0]], rank[pair[1]])):
        if keep not in gone:
            gone.add(drop)
    return gone


def select(drawings: Iterable[Drawing], *, sources: int = 2) -> list[Drawing]:
    """Drawings of classes that can be retrieved: no blank, no duplicates, no two names of one.

    A class stays with two images or more, of at least `sources` sources.
    """
    classes: dict[str, list[Drawing]] = defaultdict(list)
    for drawing in drawings:
        if not is_blank(drawing.image):
            classes[drawing.label].append(drawing)
    kept: list[Drawing] = []
    for label in sorted(classes):
        images = classes[label]
        rows = distinct(np.stack([thumb(d.image, "L") for d in images]), SAME_DRAWING)
        kept += [images[row] for row in rows]
    kept = _enough(kept, sources)
    if not kept:
        return []
    in_colour = np.stack([thumb(drawing.image, "RGB") for drawing in kept])
    gone = twins([drawing.label for drawing in kept], in_colour, SAME_PICTURE)
    return [drawing for drawing in kept if drawing.label not in gone]


def _enough(drawings: Sequence[Drawing], sources: int) -> list[Drawing]:
    of: dict[str, list[Drawing]] = defaultdict(list)
    for drawing in drawings:
        of[drawing.label].append(drawing)
    return [
        drawing
        for drawing in drawings
        if len(of[drawing.label]) >= 2 and len({d.source for d in of[drawing.label]}) >= sources
    ]


@dataclass(frozen=True)
class Split:
    """Classes by use. No class is in two of `fit`, `dev` and `test`."""

    fit: list[str]
    dev: list[str]
    test: list[str]

    @property
    def train(self) -> list[str]:
        """All that training may use."""
        return sorted([*self.fit, *self.dev])


def split_test(labels: Iterable[str], seed: Hashable = 0) -> tuple[list[str], list[str]]:
    """Half of the classes to train and the others to test on, drawn from their sorted names."""
    names = sorted(set(labels))
    random.Random(repr(seed)).shuffle(names)
    half = (len(names) + 1) // 2
    return sorted(names[:half]), sorted(names[half:])


def split_classes(train: Iterable[str], test: Iterable[str], seed: Hashable = 0) -> Split:
    """A third of the training classes is set apart to choose settings on."""
    names = sorted(set(train))
    random.Random(repr(seed)).shuffle(names)
    third = len(names) // 3
    return Split(fit=sorted(names[third:]), dev=sorted(names[:third]), test=sorted(set(test)))
