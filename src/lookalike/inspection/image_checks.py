"""Checks of single images: broken, tiny, blank, misnamed; and facts of all."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np

from lookalike import storage
from lookalike.data.decoding.image_formats import format_of_name
from lookalike.data.image_size import ImageSize, size_text
from lookalike.inspection.duplicates import FLAT
from lookalike.inspection.image_facts import ImageFacts
from lookalike.inspection.issue import Group, Issue, Lists, issues_of

TINY = 32
"""Pixels of the shorter side below which an image is an issue."""

_LONG = 8.0  # times the shorter side
_PALE = 2.0  # grey levels by which the channels of an image without colours may differ


def check_images(
    lists: Lists, facts: ImageFacts, *, image_size: ImageSize
) -> tuple[dict[str, Any], list[Issue]]:
    """Sizes, colours and formats of all images, and issues of single ones.

    `image_size` is that of the network's input: side of a square, or (height, width), in pixels.
    """
    rows, good = facts.rows.tolist(), np.flatnonzero(facts.readable)
    short = facts.sizes.min(1)
    ratio = facts.sizes.max(1) / np.maximum(short, 1)
    tiny = good[short[good] < TINY]
    tiny = tiny[np.argsort(short[tiny], kind="stable")]
    flat, long = good[facts.contrast[good] < FLAT], good[ratio[good] > _LONG]

    def at(places: np.ndarray) -> list[Group]:
        return [
            Group((rows[i],), f"{facts.sizes[i, 1]} x {facts.sizes[i, 0]}") for i in places.tolist()
        ]

    broken = sorted(facts.reasons.items())
    found = [
        *issues_of(
            "unreadable", "wrong", "images that cannot be read",
            "Fetch or export them again, or remove their lines. Training tolerates "
            "data.max_bad_images of them, then stops.",
            [Group((rows[place],), reason) for place, reason in broken],
        ),
        *issues_of(
            "tiny", "doubtful", f"images smaller than {TINY} pixels",
            "They are enlarged and blurred. Use the originals, or remove thumbnails.",
            at(tiny),
        ),
        *issues_of(
            "blank", "doubtful", "images of a single colour",
            "They show nothing; remove them.", at(flat),
        ),
        *issues_of(
            "long", "doubtful", f"images longer than {_LONG:g} times their shorter side",
            "Preprocessing keeps only the middle. Crop them to the object.", at(long),
        ),
        *issues_of(
            "wrong_extension", "note", "files whose format differs from their name",
            "lookalike detects the format by content, other programs may not; rename them. Many of "
            "one kind indicate a faulty export.",
            _misnamed(lists, facts),
        ),
    ]  # fmt: skip
    return _summary(facts, good, short, ratio, image_size), found


def _misnamed(lists: Lists, facts: ImageFacts) -> list[Group]:
    groups = []
    broken = {int(facts.rows[place]) for place in facts.reasons}
    for row, real in zip(facts.rows.tolist(), facts.formats, strict=True):
        record = lists.records[row]
        name = storage.public(record.uri) if record.member is None else record.member.name
        named = format_of_name(name)
        if real and named and real != named and row not in broken:
            groups.append(Group((row,), f"is {real}"))
    return groups


def _summary(
    read: ImageFacts,
    good: np.ndarray,
    short: np.ndarray,
    ratio: np.ndarray,
    image_size: ImageSize,
) -> dict[str, Any]:
    seconds = max(read.seconds, 1e-9)
    facts: dict[str, Any] = {
        "read": len(read.rows),
        "unreadable": len(read.reasons),
        "seconds": round(read.seconds, 2),
        "images_per_second": round(len(read.rows) / seconds, 1),
        "bytes": int(read.bytes.sum()),
        "formats": dict(Counter(name or "unknown" for name in read.formats).most_common()),
    }
    if not len(good):
        return facts
    pixels = read.thumbs[good].reshape(-1, 3)
    mean = pixels.mean(0, dtype=np.float64)
    std = np.sqrt(np.maximum((pixels.astype(np.float32) ** 2).mean(0, np.float64) - mean**2, 0))
    if isinstance(image_size, int):
        smaller = short[good] < image_size
    else:
        smaller = (read.sizes[good] < np.array(image_size)).any(axis=1)  # (n,), height, width
    bounds = [0, 32, 64, 128, 256, 512, 1024, 2048, 4096]
    counts = np.histogram(short[good], [*bounds, 1 << 31])[0].tolist()
    names = [f"{a}-{b - 1}" for a, b in pairwise(bounds)] + ["4096+"]
    return facts | {
        "width": _spread(read.sizes[good, 1]),
        "height": _spread(read.sizes[good, 0]),
        "shorter_side": {name: n for name, n in zip(names, counts, strict=True) if n},
        "aspect_ratio": _spread(ratio[good]),
        "smaller_than_the_network_sees": int(smaller.sum()),
        "network_sees": size_text(image_size) if isinstance(image_size, tuple) else image_size,
        "without_colours": int((read.colour[good] < _PALE).sum()),
        "mean_rgb": [round(value / 255, 3) for value in mean.tolist()],
        "std_rgb_of_thumbnails": [round(value / 255, 3) for value in std.tolist()],
    }


def _spread(values: np.ndarray) -> dict[str, float]:
    marks = {"least": 0, "5 %": 5, "median": 50, "95 %": 95, "most": 100}
    levels = np.percentile(values, list(marks.values())).tolist()
    return {name: round(level, 2) for name, level in zip(marks, levels, strict=True)}
