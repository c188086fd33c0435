"""What single pictures are like: broken, tiny, blank, misnamed; and what they are on the whole."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np

from lookalike import storage
from lookalike.data.decoding.image_formats import format_of_name
from lookalike.data.image_size import ImageSize, size_text
from lookalike.inspection.duplicates import FLAT
from lookalike.inspection.image_facts import Pictures
from lookalike.inspection.issue import Finding, Group, Lists, finding

TINY = 32
"""Pixels of the shorter side below which little is left to see."""

_LONG = 8.0  # times the shorter side: preprocessing cuts off what is beyond
_PALE = 2.0  # grey levels by which the channels of a picture without colours may differ


def inspect_looks(
    lists: Lists, pictures: Pictures, *, image_size: ImageSize
) -> tuple[dict[str, Any], list[Finding]]:
    """Sizes, colours and formats of all pictures, and what is wrong with single ones.

    Args:
        lists: the images.
        pictures: what was read of them.
        image_size: of the network's input: side of a square, or (height, width), in pixels.
    """
    rows, good = pictures.rows.tolist(), np.flatnonzero(pictures.readable)
    short = pictures.sizes.min(1)
    ratio = pictures.sizes.max(1) / np.maximum(short, 1)
    tiny = good[short[good] < TINY]
    tiny = tiny[np.argsort(short[tiny], kind="stable")]
    flat, long = good[pictures.contrast[good] < FLAT], good[ratio[good] > _LONG]

    def at(places: np.ndarray) -> list[Group]:
        return [
            Group((rows[i],), f"{pictures.sizes[i, 1]} x {pictures.sizes[i, 0]}")
            for i in places.tolist()
        ]

    broken = sorted(pictures.reasons.items())
    found = [
        *finding(
            "unreadable", "wrong", "images that cannot be read",
            "Fetch or export them again, or remove their lines. Training bears "
            "data.max_bad_images of them and then stops.",
            [Group((rows[place],), reason) for place, reason in broken],
        ),
        *finding(
            "tiny", "doubtful", f"images smaller than {TINY} pixels",
            "They are enlarged and blurred. Look for the originals, or remove thumbnails.",
            at(tiny),
        ),
        *finding(
            "blank", "doubtful", "images of a single colour",
            "There is nothing to learn from them; remove them.", at(flat),
        ),
        *finding(
            "long", "doubtful", f"images longer than {_LONG:g} times their shorter side",
            "Only the middle is seen. Crop them to the object.", at(long),
        ),
        *finding(
            "wrong_extension", "note", "files of another format than their name says",
            "lookalike goes by the content, other programs may not; rename them. Many of a kind "
            "hint at a careless export.",
            _misnamed(lists, pictures),
        ),
    ]  # fmt: skip
    return _facts(pictures, good, short, ratio, image_size), found


def _misnamed(lists: Lists, pictures: Pictures) -> list[Group]:
    groups = []
    broken = {int(pictures.rows[place]) for place in pictures.reasons}
    for row, real in zip(pictures.rows.tolist(), pictures.formats, strict=True):
        record = lists.records[row]
        name = storage.public(record.uri) if record.member is None else record.member.name
        said = format_of_name(name)
        if real and said and real != said and row not in broken:
            groups.append(Group((row,), f"is {real}"))
    return groups


def _facts(
    pictures: Pictures,
    good: np.ndarray,
    short: np.ndarray,
    ratio: np.ndarray,
    image_size: ImageSize,
) -> dict[str, Any]:
    seconds = max(pictures.seconds, 1e-9)
    facts: dict[str, Any] = {
        "read": len(pictures.rows),
        "unreadable": len(pictures.reasons),
        "seconds": round(pictures.seconds, 2),
        "images_per_second": round(len(pictures.rows) / seconds, 1),
        "bytes": int(pictures.bytes.sum()),
        "formats": dict(Counter(name or "unknown" for name in pictures.formats).most_common()),
    }
    if not len(good):
        return facts
    pixels = pictures.thumbs[good].reshape(-1, 3)
    mean = pixels.mean(0, dtype=np.float64)
    std = np.sqrt(np.maximum((pixels.astype(np.float32) ** 2).mean(0, np.float64) - mean**2, 0))
    if isinstance(image_size, int):
        smaller = short[good] < image_size
    else:
        smaller = (pictures.sizes[good] < np.array(image_size)).any(axis=1)  # (n,), height, width
    bounds = [0, 32, 64, 128, 256, 512, 1024, 2048, 4096]
    counts = np.histogram(short[good], [*bounds, 1 << 31])[0].tolist()
    names = [f"{a}-{b - 1}" for a, b in pairwise(bounds)] + ["4096+"]
    return facts | {
        "width": _spread(pictures.sizes[good, 1]),
        "height": _spread(pictures.sizes[good, 0]),
        "shorter_side": {name: n for name, n in zip(names, counts, strict=True) if n},
        "aspect_ratio": _spread(ratio[good]),
        "smaller_than_the_network_sees": int(smaller.sum()),
        "network_sees": size_text(image_size) if isinstance(image_size, tuple) else image_size,
        "without_colours": int((pictures.colour[good] < _PALE).sum()),
        "mean_rgb": [round(value / 255, 3) for value in mean.tolist()],
        "std_rgb_of_thumbnails": [round(value / 255, 3) for value in std.tolist()],
    }


def _spread(values: np.ndarray) -> dict[str, float]:
    marks = {"least": 0, "5 %": 5, "median": 50, "95 %": 95, "most": 100}
    levels = np.percentile(values, list(marks.values())).tolist()
    return {name: round(level, 2) for name, level in zip(marks, levels, strict=True)}
