"""Exact and near duplicates among any number of images, and the issues that they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from lookalike.inspection.image_facts import GREY, THUMB, ImageFacts
from lookalike.inspection.issue import Group, Issue, Lists, issues_of

RADIUS = 6
"""Bits, of 64, in which the hashes of near duplicates may differ."""

_BANDS = 4  # RADIUS < 2 * _BANDS: some band of two such hashes differs in one bit at most
_BITS = 16  # of a band
_PIECE = 1 << 14  # pairs of thumbnails compared at once

PAIRS_AT_ONCE = 1 << 21
"""Pairs of hashes compared at once."""

MOST_PAIRS = 50_000_000
"""Limit on compared pairs. Frames of a film may have many more."""

FLAT = 3.0
"""Grey levels of contrast below which an image has no structure to compare."""

# What two thumbnails of the same image may differ by, in grey levels. Measured on emoji of 72
# pixels and photographs of 170 that were scaled to between half and one and a half and written as
# JPEG of quality 50 to 95; other emoji begin where these end (docs/doctor.md).
_PLACE = 24.0  # luma, in the worst place
_REGION = 10.0  # luma, in the worst square of 2 x 2 places
_PATTERN = 0.01  # 1 - correlation of luma
# Colour, in the worst such square: a JPEG keeps it at half the resolution, so that a small image
# loses much of it. By the shorter side of the smaller image, in pixels.
_COLOUR = 6.0
_COLOUR_SMALL = 900.0
_MEAN = 10.0  # of the whole image, each channel
_CONTRAST = 0.3  # share of the contrast
_ASPECT = 0.03  # by which the aspect ratios may differ, beside the rounding of a pixel


_ISSUES = (
    (
        "leakage", "{}, in the training and the validation list",
        "Remove them from one of the lists: validation must not use training images.",
    ),
    (
        "two_labels", "{}, with different labels in one list",
        "Decide on one label for each. If both are right, the two classes are one.",
    ),
    (
        "duplicates", "{}, in one list with one label",
        "Keep one of each, or the class counts for more images than it has. In a validation list "
        "they find each other, and scores come out too high.",
    ),
)  # fmt: skip

_CUT = Issue(
    "near_search_cut", "note", "unfinished search for near duplicates",
    f"Only the first {MOST_PAIRS:,} pairs of similar images were compared. If they are frames of a "
    "film, keep fewer of them, or check one part of the list at a time.",
    1, (),
)  # fmt: skip


def check_duplicates(lists: Lists, facts: ImageFacts) -> list[Issue]:
    """Exact and near duplicates within the lists and between them."""
    exact = exact_groups(facts)
    spare = np.zeros(len(facts.rows), bool)
    for group in exact:
        spare[group[1:]] = True
    near, whole = near_groups(facts, np.flatnonzero(facts.readable & ~spare))
    return [
        *_duplicate_issues(lists, facts, exact, "exact", "groups of files with the same content"),
        *_duplicate_issues(lists, facts, near, "near", "groups of near-duplicate images"),
        *([] if whole else [_CUT]),
    ]


def _duplicate_issues(
    lists: Lists, facts: ImageFacts, groups: Iterable[np.ndarray], how: str, what: str
) -> list[Issue]:
    repeated = lists.repeated(
        Group(tuple(facts.rows[group].tolist()), _sizes(facts, group)) for group in groups
    )
    return [
        found
        for (kind, title, advice), its in zip(_ISSUES, repeated, strict=True)
        for found in issues_of(
            f"{kind}_{how}",
            # Near duplicates may be two things after all: people decide.
            "doubtful" if how == "near" or kind == "duplicates" else "wrong",
            title.format(what),
            ("Check them. " if how == "near" else "") + advice,
            its,
        )
    ]


def _sizes(facts: ImageFacts, group: np.ndarray) -> str:
    """`72 x 72, 36 x 36`: width and height of the images, each size once."""
    sizes = dict.fromkeys(f"{w} x {h}" for h, w in facts.sizes[group].tolist())
    return ", ".join(list(sizes)[:4]) + (", ..." if len(sizes) > 4 else "")


def exact_groups(facts: ImageFacts) -> list[np.ndarray]:
    """Indices of images with the same content, each group ascending, of two or more."""
    places = np.flatnonzero(facts.readable)
    order = places[np.argsort(facts.digests[places], kind="stable")]
    digests = facts.digests[order]
    cuts = np.flatnonzero(digests[1:] != digests[:-1]) + 1
    groups = [group for group in np.split(order, cuts) if len(group) > 1]
    return sorted(groups, key=lambda group: int(group[0]))


def near_groups(facts: ImageFacts, places: np.ndarray) -> tuple[list[np.ndarray], bool]:
    """Groups of images, each a near duplicate of another one of its group.

    Candidates are all pairs whose hashes differ in `RADIUS` bits at most. Each is confirmed on the
    thumbnails, in colour, unless other pairs have joined the two already.

    Args:
        places: (M,) indices of images with different content.

    Returns:
        Indices of images, each group ascending, of two or more; and False if the search ended
        early, after `MOST_PAIRS` candidates.
    """
    places = places[facts.contrast[places] >= FLAT]
    roots = np.arange(len(places))
    contrast = facts.contrast[places]
    means = facts.thumbs[places].mean((1, 2), dtype=np.float32)  # (M, 3)
    coarse = _coarse(facts, places)
    compared = 0
    for pairs in near_pairs(facts.hashes[places]):
        for start in range(0, len(pairs[0]), _PIECE):
            left, right = (side[start : start + _PIECE] for side in pairs)
            apart = roots[left] != roots[right]
            left, right = left[apart], right[apart]
            compared += len(left)
            # Cheap bounds first, before the thumbnails.
            near = (np.abs(means[left] - means[right]) <= _MEAN).all(1) & (
                np.abs(contrast[left] - contrast[right]) <= _CONTRAST * contrast[left] + 1
            )
            left, right = left[near], right[near]
            far = np.abs(coarse[left] - coarse[right]).max(1, initial=0)
            left, right = left[far <= _REGION + 1], right[far <= _REGION + 1]  # they are rounded
            same = confirmed(facts, places[left], places[right])
            if same.any():
                join_roots(roots, left[same], right[same])
        if compared > MOST_PAIRS:
            break
    order = np.argsort(roots, kind="stable")
    cuts = np.flatnonzero(np.diff(roots[order])) + 1
    groups = [places[group] for group in np.split(order, cuts) if len(group) > 1]
    return groups, compared <= MOST_PAIRS


def _coarse(facts: ImageFacts, places: np.ndarray) -> np.ndarray:
    """Luma of each square of 2 x 2 places, rounded: (M, T * T / 4) int16."""
    found = np.empty((len(places), (THUMB // 2) ** 2), np.int16)
    for start in range(0, len(places), 4096):
        luma = facts.thumbs[places[start : start + 4096]].astype(np.float32) @ GREY
        found[start : start + 4096] = np.rint(_squares(luma[..., None])).reshape(len(luma), -1)
    return found


def near_pairs(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs (i, j) of (N,) uint64 `hashes` that differ in `RADIUS` bits at most, each once.

    Of 64 bits in four bands, up to seven differing bits leave a band with one or none. So each
    hash is compared up by each band, and by each band with one bit flipped: 4 x 17 look-ups among
    N / 65,536 hashes each, if they are evenly distributed.
    """
    for band in range(_BANDS):
        keys = ((hashes >> np.uint64(band * _BITS)) & np.uint64(0xFFFF)).astype(np.int64)
        order = np.argsort(keys, kind="stable")
        ends = np.cumsum(np.bincount(keys, minlength=1 << _BITS))
        starts = np.concatenate(([0], ends[:-1]))
        ranks = np.arange(len(order))
        sorted_keys, sorted_hashes = keys[order], hashes[order]
        for flipped in (0, *(1 << bit for bit in range(_BITS))):
            if flipped:  # each pair of keys once
                mine = np.flatnonzero((sorted_keys & flipped) == 0)
                first = starts[sorted_keys[mine] | flipped]
                counts = ends[sorted_keys[mine] | flipped] - first
            else:
                mine, first = ranks, ranks + 1
                counts = ends[sorted_keys] - first
            for i, j in _pairs(mine, first, counts):
                differing = sorted_hashes[i] ^ sorted_hashes[j]
                near = np.flatnonzero(np.bitwise_count(differing) <= RADIUS)
                for earlier in range(band):  # pairs that an earlier band has found
                    part = (differing[near] >> np.uint64(earlier * _BITS)) & np.uint64(0xFFFF)
                    near = near[np.bitwise_count(part) > 1]
                if len(near):
                    yield order[i[near]], order[j[near]]


def _pairs(
    mine: np.ndarray, first: np.ndarray, counts: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each of `mine` with the ranks from its `first` on, `counts` of them; a chunk at a time."""
    kept = counts > 0
    mine, first, counts = mine[kept], first[kept], counts[kept]
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    for start in range(0, total, PAIRS_AT_ONCE):
        stop = min(start + PAIRS_AT_ONCE, total)
        low = int(np.searchsorted(ends, start, "right"))
        high = int(np.searchsorted(ends, stop, "left")) + 1
        begins = ends[low:high] - counts[low:high]
        part = np.minimum(ends[low:high], stop) - np.maximum(begins, start)
        which = np.repeat(np.arange(low, high), part)
        offset = np.arange(start, stop) - (ends[which] - counts[which])
        yield mine[which], first[which] + offset


def confirmed(facts: ImageFacts, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(n,) bool, pairs of images that match in aspect ratio, in pattern and at each place."""
    answers = np.zeros(len(left), bool)
    for start in range(0, len(left), 4096):
        a, b = left[start : start + 4096], right[start : start + 4096]
        answers[start : start + 4096] = _alike(facts, a, b)
    return answers


def _alike(facts: ImageFacts, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    sizes_a, sizes_b = facts.sizes[a].astype(np.float64), facts.sizes[b].astype(np.float64)
    side = np.minimum(sizes_a, sizes_b).min(1)
    turn = np.abs(np.log(sizes_a[:, 0] * sizes_b[:, 1] / (sizes_a[:, 1] * sizes_b[:, 0])))
    one, two = (facts.thumbs[rows].astype(np.float32) for rows in (a, b))  # (n, T, T, 3)
    luma_a, luma_b = one @ GREY, two @ GREY  # (n, T, T)
    luma = luma_a - luma_b
    colour = _squares((one - luma_a[..., None]) - (two - luma_b[..., None]))
    return np.asarray(
        (turn <= _ASPECT + 1 / side)
        & (np.abs(luma).max((1, 2)) <= _PLACE)
        & (np.abs(_squares(luma[..., None])).max((1, 2, 3)) <= _REGION)
        & (1 - _correlation(luma_a, luma_b) <= _PATTERN)
        & (np.sqrt((colour**2).mean(3)).max((1, 2)) <= _COLOUR + _COLOUR_SMALL / side)
    )


def _squares(values: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 places, (n, T, T, c) -> (n, T / 2, T / 2, c)."""
    n, side, _, channels = values.shape
    means = values.reshape(n, side // 2, 2, side // 2, 2, channels).mean((2, 4))
    return np.asarray(means)


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n,) of images (n, T, T) and (n, T, T)."""
    a, b = (x - x.mean((1, 2), keepdims=True) for x in (a, b))
    return np.asarray((a * b).sum((1, 2)) / np.sqrt((a * a).sum((1, 2)) * (b * b).sum((1, 2))))


def join_roots(roots: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Union-find: give connected places the same root, the lowest of theirs, in place."""
    parents: dict[int, int] = {}

    def root(of: int) -> int:
        while (up := parents.get(of, of)) != of:
            parents[of] = parents.get(up, up)
            of = up
        return of

    for a, b in zip(roots[left].tolist(), roots[right].tolist(), strict=True):
        low, high = sorted((root(a), root(b)))
        if low != high:
            parents[high] = low
    if parents:
        changed = np.fromiter(parents, np.int64, len(parents))
        table = np.arange(len(roots))
        table[changed] = [root(int(one)) for one in changed]
        roots[:] = table[roots]
