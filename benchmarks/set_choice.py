"""Drawings that make a set: those that can be retrieved, and not by being copies."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

SAME_DRAWING = 0.985
"""Cosine of the ink of two images of a class from which on the second is left out."""

SAME_PICTURE = 0.998
"""Cosine of the ink, by colour, of images of two classes from which on one class is left out."""

_THUMB = 32
_BLANK = 12.0  # grey levels that the darkest pixels of a drawing differ from white
_DARKEST = 64  # pixels


@dataclass(frozen=True)
class Drawing:
    """One drawing of a thing.

    Attributes:
        source: name of the icon set, deck or font.
        draw: makes the image, RGB on white; None where it cannot be drawn or used.
    """

    label: str
    source: str
    draw: Callable[[], Image.Image | None]


def is_blank(image: Image.Image) -> bool:
    """True if there is next to nothing on the white."""
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
    rank = {label: (-count, label) for label, count in Counter(labels).items()}
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


def select(
    drawings: Iterable[Drawing], *, most: int | None = None, certain: bool = False
) -> list[tuple[Drawing, Image.Image]]:
    """Drawings of classes that can be retrieved: no blank, no duplicates, no two names of one.

    A class stays with images of two sources or more; others are not drawn.

    Args:
        drawings: in the order in which they are preferred.
        most: images of a class, where there are more.
        certain: the labels are: two classes whose images are the same stay.
    """
    classes: dict[str, list[Drawing]] = defaultdict(list)
    for drawing in drawings:
        classes[drawing.label].append(drawing)
    kept: list[tuple[Drawing, Image.Image]] = []
    for label in sorted(classes):
        if _sources(classes[label]) < 2:
            continue
        drawn = [(drawing, drawing.draw()) for drawing in classes[label]]
        images = [(drawing, image) for drawing, image in drawn if image and not is_blank(image)]
        if images:
            thumbs = np.stack([thumb(image, "L") for _, image in images])
            images = [images[row] for row in distinct(thumbs, SAME_DRAWING)][:most]
        if _sources(drawing for drawing, _ in images) > 1:
            kept += images
    if certain or not kept:
        return kept
    in_colour = np.stack([thumb(image, "RGB") for _, image in kept])
    gone = twins([drawing.label for drawing, _ in kept], in_colour, SAME_PICTURE)
    return [(drawing, image) for drawing, image in kept if drawing.label not in gone]


def _sources(drawings: Iterable[Drawing]) -> int:
    return len({drawing.source for drawing in drawings})
